"""What webhooks are told comes at least once, within its budget, each host at its own pace."""

import asyncio
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from salver.control.webhooks.attempt import FAILED, NO, OK, Attempt
from salver.control.webhooks.deliverer import MAX_OPEN_OF_HOST, Deliverer
from salver.core.clock import ManualClock
from salver.core.errors import ControlUnavailable
from salver.core.webhooks import BEFORE_STEP, WHEN_PROMOTED, Webhook
from salver.observe.merge import Merger
from salver.registry.lease import STALE_S
from salver.registry.records import Delivery
from tests.control.parts import Control, control

HOOK = Webhook("desk", "https://desk.example/", (BEFORE_STEP,), attempts=4, budget_s=100.0)
ITEM = Delivery("d1", "e", 1, 3, BEFORE_STEP, HOOK, b'{"id":"d1"}')
DELIVERIES = "salver_webhook_deliveries_total"


class Scripted:
    """Answers one after the other, the last again and again, and keeps what came."""

    def __init__(self, *answers: Attempt) -> None:
        self._answers = list(answers)
        self.told: list[Delivery] = []

    async def __call__(self, item: Delivery) -> Attempt:
        """Return the next answer."""
        self.told.append(item)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def add(parts: Control, *items: Delivery) -> None:
    """Write down what is to be told."""
    with parts.database.write() as connection:
        parts.deliveries.add_within(connection, items)


def state(parts: Control, identity: str = "d1") -> Delivery:
    """Return how a delivery goes."""
    return next(d for d in parts.deliveries.newest("e", 1000) if d.id == identity)


def deliverer(parts: Control, send: Scripted, clock: ManualClock) -> tuple[Deliverer, Merger]:
    """Return one that begins with what is stored, and where it counts."""
    merger = Merger()
    made = Deliverer(parts.deliveries, parts.thread, send, merger.count, clock, random.Random(1))
    return made, merger


async def settle(made: Deliverer) -> None:
    """Begin with what is due, and wait until it has ended."""
    await made.look()
    while made._open:
        await asyncio.sleep(0)
        await made._database(lambda: None)


def test_failures_are_tried_again_as_often_as_allowed(parts: Control, clock: ManualClock) -> None:
    """Pauses grow and are not all alike; the body and the id stay; then it is given up, once."""
    add(parts, ITEM)
    send = Scripted(Attempt(FAILED, 503, "503: busy"))
    made, merger = deliverer(parts, send, clock)
    times: list[float] = []

    async def run() -> None:
        began_ns = clock.monotonic_ns()
        for _ in range(400):
            before = len(send.told)
            await settle(made)
            if len(send.told) > before:
                times.append((clock.monotonic_ns() - began_ns) / 1e9)
            clock.advance(0.05)

    asyncio.run(run())
    assert len(times) == HOOK.attempts
    pauses = [after - before for before, after in pairwise(times)]
    for pause, least in zip(pauses, (0.5, 1.0, 2.0), strict=True):
        assert least <= pause <= 2 * least + 0.06
    assert {(item.id, item.body) for item in send.told} == {("d1", ITEM.body)}
    ended = state(parts)
    assert (ended.state, ended.attempts, ended.status) == ("undelivered", 4, 503)
    assert "given up after 4 of 4 attempts" in ended.reason
    assert merger.retired.counters[(DELIVERIES, (BEFORE_STEP, "undelivered"))] == 1
    attempts = ("salver_webhook_attempts_total", (BEFORE_STEP, "failed"))
    assert merger.retired.counters[attempts] == 4


def test_the_budget_ends_it_before_the_attempts_do(parts: Control, clock: ManualClock) -> None:
    """No attempt begins later than that after the first, a restart in between included."""
    add(parts, ITEM)
    send = Scripted(Attempt(FAILED, reason="no answer"))

    async def run() -> None:
        made, _ = deliverer(parts, send, clock)
        await settle(made)
        clock.advance(60.0)
        await settle(made)
        assert state(parts).spent_s == 60.0
        again, _ = deliverer(parts, send, clock)
        clock.advance(30.0)
        await settle(again)
        assert state(parts).state == "waiting"
        clock.advance(39.0)
        await settle(again)

    asyncio.run(run())
    assert state(parts).state == "undelivered"
    assert state(parts).attempts == 4
    assert state(parts).spent_s == 99.0


def test_a_host_that_asks_for_a_pause_gets_it(parts: Control, clock: ManualClock) -> None:
    """Retry-After counts when it is longer, and ends it when it does not fit the budget."""
    add(parts, ITEM)
    send = Scripted(Attempt(FAILED, 429, "429", 30.0), Attempt(FAILED, 429, "429", 80.0))

    async def run() -> None:
        made, _ = deliverer(parts, send, clock)
        await settle(made)
        clock.advance(29.0)
        await settle(made)
        assert len(send.told) == 1
        clock.advance(1.0)
        await settle(made)

    asyncio.run(run())
    assert (len(send.told), state(parts).state) == (2, "undelivered")


@pytest.mark.parametrize(("outcome", "ended"), [(OK, "delivered"), (NO, "refused")])
def test_an_answer_ends_it(parts: Control, clock: ManualClock, outcome: str, ended: str) -> None:
    """Whoever said yes or no is not asked again."""
    add(parts, ITEM)
    send = Scripted(Attempt(outcome, 200, "text"))

    async def run() -> None:
        made, merger = deliverer(parts, send, clock)
        for _ in range(3):
            await settle(made)
            clock.advance(100.0)
        assert merger.retired.counters[(DELIVERIES, (BEFORE_STEP, ended))] == 1

    asyncio.run(run())
    assert (len(send.told), state(parts).state) == (1, ended)


def test_what_was_not_written_down_is_told_again(parts: Control, clock: ManualClock) -> None:
    """A control that ends between an answer and its record tells the same again, with its id."""
    add(parts, ITEM)
    send = Scripted(Attempt(OK, 200))

    async def run(parts: Control, *, dies: bool) -> None:
        made, _ = deliverer(parts, send, clock)
        if dies:
            made.store.save = _refused  # type: ignore[assignment,method-assign]
        await settle(made)

    asyncio.run(run(parts, dies=True))
    assert state(parts).state == "waiting"
    parts.thread.stop()
    again = control(Path(str(parts.database.engine.url.database)).parent, "one", clock)
    asyncio.run(run(again, dies=False))
    again.thread.stop()
    assert [item.id for item in send.told] == ["d1", "d1"]
    assert send.told[0] == send.told[1]
    assert state(parts).state == "delivered"


@pytest.mark.parametrize(
    ("fault", "outcome", "ended"),
    [
        (RuntimeError("full"), OK, "delivered"),
        (ControlUnavailable("full"), NO, "refused"),
        (ControlUnavailable("full"), FAILED, "waiting"),
    ],
)
def test_what_cannot_be_written_down_is_told_ever_more_rarely(
    parts: Control,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    outcome: str,
    ended: str,
) -> None:
    """A host is not asked all the time because a disk is full, and is done with it afterwards."""
    add(parts, ITEM)
    send = Scripted(Attempt(outcome, 200))
    made, _ = deliverer(parts, send, clock)
    times: list[float] = []

    def refused(_item: Delivery) -> bool:
        raise fault

    async def run() -> None:
        for _ in range(60):
            before = len(send.told)
            await settle(made)
            if len(send.told) > before:
                times.append(clock.monotonic_ns() / 1e9)
            clock.advance(0.5)

    async def later() -> None:
        clock.advance(60.0)
        await settle(made)

    monkeypatch.setattr(parts.deliveries, "save", refused)
    asyncio.run(run())
    pauses = [after - before for before, after in pairwise(times)]
    assert len(pauses) >= 4
    for number, pause in enumerate(pauses):
        assert 0.5 * 2**number <= pause <= 2**number + 0.5
    assert (state(parts).state, state(parts).attempts) == ("waiting", 0)
    monkeypatch.undo()
    asyncio.run(later())
    assert (state(parts).state, state(parts).attempts) == (ended, 1)
    assert made._unnoted == {}


def test_a_disk_that_is_full_for_long_makes_no_pause_too_long(
    parts: Control, clock: ManualClock
) -> None:
    """However often it failed, the next attempt is within the longest pause."""
    made, _ = deliverer(parts, Scripted(Attempt(OK, 200)), clock)
    made._unnoted[ITEM.id] = 100_000
    made._put_off(ITEM)
    assert 30.0 <= (made._due_ns[ITEM.id] - clock.monotonic_ns()) / 1e9 <= 60.0


def _refused(_item: Delivery) -> bool:
    raise RuntimeError("killed")


def test_a_slow_host_holds_up_nobody_else(parts: Control, clock: ManualClock) -> None:
    """Of one that does not answer a few attempts are open; the others are told meanwhile."""
    slow = [
        msgspec.structs.replace(ITEM, id=f"slow{n}", webhook=_at("https://slow.example/"))
        for n in range(20)
    ]
    quick = [msgspec.structs.replace(ITEM, id=f"quick{n}", event=WHEN_PROMOTED) for n in range(5)]
    add(parts, *slow, *quick)
    gate, most = asyncio.Event(), [0]

    async def send(item: Delivery) -> Attempt:
        if item.id.startswith("slow"):
            most[0] = max(most[0], sum(each.startswith("slow") for each in made._open))
            await gate.wait()
        return Attempt(OK, 200)

    made = Deliverer(parts.deliveries, parts.thread, send, Merger().count, clock, random.Random(1))

    async def run() -> None:
        await _until(made, lambda: all(state(parts, d.id).state == "delivered" for d in quick))
        assert all(state(parts, d.id).state == "waiting" for d in slow)
        gate.set()
        await _until(made, lambda: all(state(parts, d.id).state == "delivered" for d in slow))

    asyncio.run(run())
    assert most[0] == MAX_OPEN_OF_HOST


async def _until(made: Deliverer, holds: Callable[[], bool]) -> None:
    for _ in range(200):
        await made.look()
        for _ in range(5):
            await asyncio.sleep(0)
            await made._database(lambda: None)
        if holds():
            return
    raise AssertionError("it does not hold")


def _at(url: str) -> Webhook:
    return msgspec.structs.replace(HOOK, url=url)


def test_the_queue_is_bounded(parts: Control) -> None:
    """What comes when it is full is undelivered at once, and says which setting is meant."""
    add(parts, *[msgspec.structs.replace(ITEM, id=f"d{n}") for n in range(98)])
    add(parts, *[msgspec.structs.replace(ITEM, id=f"x{n}") for n in range(4)])
    assert [state(parts, f"x{n}").state for n in range(4)] == [
        "waiting", "waiting", "undelivered", "undelivered",
    ]  # fmt: skip
    assert "control.webhook_queue" in state(parts, "x3").reason
    assert len(parts.deliveries.waiting()) == 100


def test_what_was_withdrawn_stays_so(parts: Control, clock: ManualClock) -> None:
    """An answer that comes when nobody asks any more changes nothing and is not counted."""
    add(parts, ITEM, msgspec.structs.replace(ITEM, id="d2", event=WHEN_PROMOTED))

    async def send(item: Delivery) -> Attempt:
        def withdraw() -> None:
            with parts.database.write() as connection:
                parts.deliveries.withdraw_within(connection, "e", 1, None)

        await parts.thread(withdraw)
        return Attempt(OK, 200)

    merger = Merger()
    made = Deliverer(parts.deliveries, parts.thread, send, merger.count, clock, random.Random(1))
    asyncio.run(settle(made))
    assert (state(parts).state, state(parts).attempts) == ("withdrawn", 0)
    assert state(parts, "d2").state == "delivered"
    assert (DELIVERIES, (BEFORE_STEP, "delivered")) not in merger.retired.counters


def test_a_control_on_standby_tells_nobody(
    parts: Control, tmp_path: Path, clock: ManualClock
) -> None:
    """Only who is in charge does; what another wrote down goes on there."""
    add(parts, ITEM)
    other = control(tmp_path, "two", clock)
    send = Scripted(Attempt(OK, 200))
    made, _ = deliverer(other, send, clock)
    asyncio.run(settle(made))
    assert send.told == []
    clock.advance(STALE_S)
    assert other.lease.renew()
    asyncio.run(settle(made))
    assert [item.id for item in send.told] == ["d1"]
    other.thread.stop()


def test_what_has_ended_is_forgotten_in_the_end(parts: Control, clock: ManualClock) -> None:
    """After a month, and what waits never."""
    add(parts, ITEM, msgspec.structs.replace(ITEM, id="d2"))
    assert parts.deliveries.save(msgspec.structs.replace(ITEM, state="delivered"))
    clock.advance(31 * 86_400.0)
    parts.deliveries.forget_old(30.0)
    assert [item.id for item in parts.deliveries.newest("e", 10)] == ["d2"]
