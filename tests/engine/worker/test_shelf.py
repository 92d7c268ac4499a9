"""Workers with a memory budget: real processes, more models than fit."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import psutil
import uvloop

from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.wire.connection import Connection
from salver.wire.messages import BatchPolicy, PlanPush, Snapshot
from salver.wire.transport import listen
from tests import models
from tests.engine.fleet import Caller, Callers, Fleet, Model, client_of, finish, fleet, until
from tests.wire.links import Inbox, hello

MIB = 1024 * 1024
SIDE = 700
FLOATS = Signature((TensorSpec("x", "FP32", (-1, SIDE)),), (TensorSpec("y", "FP32", (-1, SIDE)),))
MODELS = 15
FIT = 5
CALLERS = 32


def onnx(index: int, *, pinned: bool = False) -> Model:
    """Return a real model of about 2 MB that multiplies by ``index + 1``."""
    content = models.onnx_weights(index + 1, SIDE).read_bytes()
    return Model(f"m{index}:1", "onnx", content, signature=FLOATS, file="model.onnx", pinned=pinned)


def ballast(
    name: str,
    megabytes: int,
    *,
    load_s: float = 0.0,
    run_s: float = 0.0,
    pinned: bool = False,
    hint: bool = False,
) -> Model:
    """Return a model that weighs so much; ``hint`` says that it was loaded before."""
    size = megabytes * MIB
    return Model(
        f"{name}:1",
        "ballast",
        f"{size} {load_s} {run_s}".encode(),
        BatchPolicy(1),
        pinned=pinned,
        size_hint_bytes=size if hint else 0,
    )


class Desk:
    """Control's side of a fleet's worker: what ``shared-0`` reports."""

    def __init__(self) -> None:
        self.inboxes: list[Inbox] = []
        self.before: dict[str, float] = {}

    def accept(self, connection: Connection) -> Inbox:
        """Take a worker's link."""
        self.inboxes.append(Inbox())
        return self.inboxes[-1].accept(connection)

    def inbox(self) -> Inbox | None:
        """Return the link of the worker's newest process."""
        for inbox in reversed(self.inboxes):
            peer = inbox.connection.peer if inbox.connection is not None else None
            if peer is not None and peer.identity == "shared-0" and not inbox.lost:
                return inbox
        return None

    @property
    def snapshot(self) -> Snapshot | None:
        """Return its newest report."""
        inbox = self.inbox()
        found = [m for m, _ in inbox.messages if isinstance(m, Snapshot)] if inbox else []
        return found[-1] if found else None

    def states(self) -> dict[str, str]:
        """Return each variant's state."""
        snapshot = self.snapshot
        return {} if snapshot is None else {v.variant: v.state for v in snapshot.variants}

    def seen(self, variant: str) -> set[str]:
        """Return every state that its newest process has reported of a variant."""
        inbox = self.inbox()
        found = [m for m, _ in inbox.messages if isinstance(m, Snapshot)] if inbox else []
        return {v.state for report in found for v in report.variants if v.variant == variant}

    def total(self, name: str, *labels: str) -> float:
        """Return the sum of a counter over series that begin with these labels."""
        samples = self.snapshot.counters if self.snapshot is not None else ()
        return sum(s.value for s in samples if s.name == name and s.labels[: len(labels)] == labels)

    async def until_fresh(self) -> None:
        """Wait for a report that was made after this call."""
        inbox = self.inbox()
        assert inbox is not None
        count = len(inbox.messages)
        await until(lambda: len(inbox.messages) > count + 1)


@contextlib.asynccontextmanager
async def desk_of(running: Fleet) -> AsyncIterator[Desk]:
    """Be the fleet's control."""
    desk = Desk()
    door = await listen(f"unix:{running.home}/run/control.sock", hello("control"), desk.accept)
    try:
        yield desk
    finally:
        await door.close()
        for inbox in desk.inboxes:
            if inbox.connection is not None and not inbox.lost:
                inbox.connection.close()
                await inbox.until_lost()


@contextlib.contextmanager
def budgeted(
    *hosted: Model, budget_bytes: int, room_wait_s: float = 30.0, **settings: object
) -> Iterator[Fleet]:
    """Start a worker with a budget."""
    environment = {
        "SALVER_CONTROL__SNAPSHOT_INTERVAL_S": "0.05",
        "SALVER_ENGINE__MEMORY_BUDGET_BYTES": str(budget_bytes),
        "SALVER_ENGINE__ROOM_WAIT_S": str(room_wait_s),
        **{f"SALVER_ENGINE__{name.upper()}": str(value) for name, value in settings.items()},
    }
    with fleet(*hosted, environment=environment) as running:
        yield running


def run(running: Fleet, work: Callable[[Desk, Callers], Coroutine[Any, Any, None]]) -> None:
    """Run a test as the fleet's control and gateway."""

    async def both() -> None:
        async with desk_of(running) as desk, client_of(running) as callers:
            await until(lambda: len(desk.states()) == len(running.models))
            await work(desk, callers)

    uvloop.run(both())


def occupied(running: Fleet) -> int:
    """Return the resident memory of the worker."""
    return int(psutil.Process(running.processes["shared-0"].pid).memory_info().rss)


def base_bytes(example: Model) -> int:
    """Return what a worker occupies besides one such model."""
    sizes: list[int] = []

    async def look(desk: Desk, callers: Callers) -> None:
        del callers
        await desk.until_fresh()
        assert desk.snapshot is not None
        (state,) = desk.snapshot.variants
        sizes.append(occupied(running) - state.size_bytes)

    with budgeted(example, budget_bytes=1 << 40) as running:
        run(running, look)
    return sizes[0]


def ask(callers: Callers, index: int, value: float) -> Caller:
    """Ask model ``m{index}`` to multiply."""
    tensor = Tensor.from_array("x", np.full((1, SIDE), value, np.float32))
    caller = callers.send([tensor], variant=f"m{index}:1")
    caller.value = value * (index + 1)
    return caller


def assert_answered(callers: list[Caller]) -> None:
    """Every caller has had its own model's answer, once."""
    assert {caller.outcome for caller in callers} == {"ok"}
    for caller in callers:
        assert caller.finals == 1
        (output,) = caller.responses[-1].outputs
        assert (output.array() == np.float32(caller.value)).all()


def test_more_models_than_fit_answer_within_the_budget() -> None:
    """Zipf traffic over fifteen models with room for five: no failure, and memory keeps within."""
    base = base_bytes(onnx(0))
    budget_bytes = base + FIT * models.onnx_weights(1, SIDE).stat().st_size
    most: list[int] = []

    async def traffic(desk: Desk, callers: Callers) -> None:
        chance = random.Random(7)
        weights = [1 / (rank + 1) for rank in range(MODELS)]
        for _ in range(60):
            chosen = chance.choices(range(MODELS), weights, k=8)
            await finish([ask(callers, index, chance.randrange(1000)) for index in chosen])
            most.append(occupied(running))
        assert_answered(callers.all)
        await desk.until_fresh()
        assert desk.total("salver_model_evictions_total") > FIT
        assert desk.total("salver_model_misses_total") > FIT
        asked = sum(c.context is not None and c.context.variant == "m0:1" for c in callers.all)
        assert desk.total("salver_model_loads_total", "m0:1") < asked / 2, "the favourite is kept"
        states = desk.states()
        assert set(states) == {f"m{index}:1" for index in range(MODELS)}
        assert set(states.values()) == {"ready", "evicted"}
        cold = [c for c in callers.all if (t := c.responses[-1].timing) is not None and t.cold]
        assert 0 < len(cold) < len(callers.all)

    with budgeted(*map(onnx, range(MODELS)), budget_bytes=budget_bytes) as running:
        run(running, traffic)
    assert max(most) <= budget_bytes * 1.1


def test_one_load_serves_all_who_wait() -> None:
    """Thirty-two concurrent requests for a model that is out cause one load, and are answered."""

    async def work(desk: Desk, callers: Callers) -> None:
        assert desk.states() == {"a:1": "evicted"}
        await finish([callers.ask(float(index), variant="a:1") for index in range(CALLERS)])
        assert {caller.outcome for caller in callers.all} == {"ok"}
        assert [caller.answer for caller in callers.all] == [3.0 * i + 1 for i in range(CALLERS)]
        await desk.until_fresh()
        assert desk.total("salver_model_loads_total") == 1
        assert desk.total("salver_model_misses_total") == CALLERS

    with budgeted(ballast("a", 8, load_s=0.2, hint=True), budget_bytes=1 << 40) as running:
        run(running, work)


def test_pinned_models_stay() -> None:
    """What is pinned is loaded at once and once, however much the others come and go."""
    hosted = [ballast(name, 32, pinned=name == "a", hint=True) for name in "abcd"]

    async def work(desk: Desk, callers: Callers) -> None:
        await until(lambda: desk.states()["a:1"] == "ready")
        for _ in range(3):
            for name in "bcd":
                await finish([callers.ask(1.0, variant=f"{name}:1")])
        await desk.until_fresh()
        assert {caller.outcome for caller in callers.all} == {"ok"}
        assert desk.states()["a:1"] == "ready"
        assert desk.total("salver_model_loads_total", "a:1") == 1
        assert desk.total("salver_model_evictions_total", "a:1") == 0
        assert desk.total("salver_model_evictions_total") >= 5

    with budgeted(*hosted, budget_bytes=base_bytes(ballast("a", 1)) + 80 * MIB) as running:
        run(running, work)


def test_what_never_fits_is_refused_with_a_code() -> None:
    """A model larger than the budget fails to load; one beside pinned ones is refused each time."""
    hosted = [
        ballast("a", 64, pinned=True, hint=True), ballast("b", 64, hint=True), ballast("c", 8),
    ]  # fmt: skip

    async def work(desk: Desk, callers: Callers) -> None:
        await until(lambda: desk.states()["a:1"] == "ready")
        refused = callers.ask(1.0, variant="b:1")
        served = callers.ask(1.0, variant="c:1")
        await finish([refused, served])
        assert refused.outcome == "memory_budget_exceeded"
        assert refused.error is not None
        assert refused.error.retry_after_s is not None
        assert served.outcome == "ok"
        assert running.write((*hosted, ballast("d", 256)), 2)
        inbox = desk.inbox()
        assert inbox is not None
        assert inbox.connection is not None
        inbox.connection.send(PlanPush(running.plan))
        await until(lambda: desk.states().get("d:1") == "failed")
        assert desk.snapshot is not None
        codes = {state.variant: state.code for state in desk.snapshot.variants}
        assert codes["d:1"] == "memory_budget_exceeded"
        served = callers.ask(1.0, variant="c:1")
        await finish([served])
        assert served.outcome == "ok"

    with budgeted(*hosted, budget_bytes=base_bytes(ballast("a", 1)) + 96 * MIB) as running:
        run(running, work)
        assert occupied(running) < running_limit(running)


def running_limit(running: Fleet) -> int:
    """Return a tenth more than the fleet's budget."""
    return round(int(running.environment["SALVER_ENGINE__MEMORY_BUDGET_BYTES"]) * 1.1)


def test_a_busy_model_is_not_sent_away() -> None:
    """Who asks for a model while the only one in memory runs waits, then both are answered."""
    hosted = [ballast("a", 64, run_s=0.5, hint=True), ballast("b", 64, hint=True)]

    async def work(desk: Desk, callers: Callers) -> None:
        first = [callers.ask(float(index), variant="a:1") for index in range(3)]
        await until(lambda: desk.states()["a:1"] == "ready")
        second = callers.ask(5.0, variant="b:1")
        await finish([*first, second])
        assert {caller.outcome for caller in callers.all} == {"ok"}
        await desk.until_fresh()
        assert desk.total("salver_model_loads_total", "a:1") == 1
        assert desk.total("salver_model_evictions_total", "a:1") == 1

    with budgeted(*hosted, budget_bytes=base_bytes(ballast("a", 1)) + 96 * MIB) as running:
        run(running, work)


def test_the_wait_for_room_is_bounded() -> None:
    """Nobody waits longer for room than the setting says; the refusal has a code."""
    hosted = [ballast("a", 64, run_s=3.0, hint=True), ballast("b", 64, hint=True)]
    budget_bytes = base_bytes(ballast("a", 1)) + 96 * MIB

    async def work(desk: Desk, callers: Callers) -> None:
        first = callers.ask(1.0, variant="a:1")
        await until(lambda: desk.states()["a:1"] == "ready")
        second = callers.ask(1.0, variant="b:1")
        await finish([second])
        assert second.outcome == "memory_budget_exceeded"
        assert not first.finals
        await finish([first])
        assert first.outcome == "ok"
        third = callers.ask(1.0, variant="b:1")
        await finish([third])
        assert third.outcome == "ok"

    with budgeted(*hosted, budget_bytes=budget_bytes, room_wait_s=0.3) as running:
        run(running, work)


def test_whose_turn_comes_late_has_lacked_no_room() -> None:
    """Behind loads that take longer than one may wait for room, all become ready and answer.

    New ones, of which nobody knows the size, and those that are out until they are wanted.
    """
    new = [ballast(name, 8, load_s=0.5) for name in "abc"]
    known = [ballast(name, 8, load_s=0.5, hint=True) for name in "de"]

    async def work(desk: Desk, callers: Callers) -> None:
        asked = [callers.ask(1.0, variant=one.variant) for one in known]
        await until(lambda: all(desk.states()[one.variant] == "ready" for one in new))
        await finish(asked)
        assert {caller.outcome for caller in asked} == {"ok"}
        await desk.until_fresh()
        assert desk.total("salver_memory_refusals_total", "c:1") == 0

    with budgeted(*new, *known, budget_bytes=1 << 40, room_wait_s=0.2) as running:
        run(running, work)


def test_a_lack_of_room_does_not_go_on_while_others_are_loaded() -> None:
    """Whoever lacked room for a moment, and then waited for its turn, has not lacked it so long."""
    hosted = [ballast(name, 64, load_s=0.5, run_s=0.1, hint=True) for name in "abc"]

    async def work(_desk: Desk, callers: Callers) -> None:
        asked = [callers.ask(1.0, variant=one.variant) for one in hosted]
        await finish(asked)
        assert [caller.outcome for caller in asked] == ["ok"] * 3

    budget_bytes = base_bytes(ballast("a", 1)) + 96 * MIB
    with budgeted(*hosted, budget_bytes=budget_bytes, room_wait_s=0.3) as running:
        run(running, work)


def test_callers_that_leave_load_nothing() -> None:
    """A model that was wanted only by callers who have left meanwhile is not loaded."""
    hosted = [ballast("a", 64, run_s=1.0, hint=True), ballast("b", 64, hint=True)]

    async def work(desk: Desk, callers: Callers) -> None:
        first = callers.ask(1.0, variant="a:1")
        await until(lambda: desk.states()["a:1"] == "ready")
        callers.ask(1.0, variant="b:1").leave()
        late = callers.ask(1.0, variant="b:1", timeout_s=0.2)
        await finish([first, late])
        assert (first.outcome, late.outcome) == ("ok", "deadline_exceeded")
        again = callers.ask(2.0, variant="a:1")
        await finish([again])
        assert again.outcome == "ok"
        await desk.until_fresh()
        assert desk.total("salver_model_loads_total", "b:1") == 0
        assert desk.total("salver_model_loads_total", "a:1") == 1

    with budgeted(*hosted, budget_bytes=base_bytes(ballast("a", 1)) + 96 * MIB) as running:
        run(running, work)


def test_a_reload_that_fails_is_told_and_tried_again() -> None:
    """While the stored bytes are damaged, requests get the load's code; once mended, answers."""
    hosted = [ballast("a", 64, hint=True), ballast("b", 64, hint=True)]

    async def work(desk: Desk, callers: Callers) -> None:
        for name in "ab":
            await finish([callers.ask(1.0, variant=f"{name}:1")])
        (load,) = [x for x in running.plan.workers[0].loads if x.variant == "a:1"]
        digest = load.files[0].sha256
        blob = running.home / "blobs" / "sha256" / digest[:2] / digest
        whole = blob.read_bytes()
        blob.write_bytes(whole[:-1] + b"9")
        damaged = callers.ask(1.0, variant="a:1")
        await finish([damaged])
        assert damaged.outcome == "digest_mismatch"
        blob.write_bytes(whole)
        await until(lambda: "failed" in desk.seen("a:1"))
        await until(lambda: desk.states()["a:1"] == "evicted")
        mended = callers.ask(1.0, variant="a:1")
        await finish([mended])
        assert mended.outcome == "ok"

    with budgeted(*hosted, budget_bytes=base_bytes(ballast("a", 1)) + 96 * MIB) as running:
        run(running, work)


def test_a_worker_killed_while_loading_loses_no_caller() -> None:
    """Who waits for a load when the worker dies is answered by the next one, which loads again."""
    hosted = [ballast("a", 8, load_s=0.5, hint=True), ballast("b", 8, hint=True)]

    async def work(desk: Desk, callers: Callers) -> None:
        alive = asyncio.create_task(running.keep_alive())
        for _ in range(3):
            waiting = [callers.ask(float(i), variant="a:1") for i in range(CALLERS)]
            await until(lambda: desk.states().get("a:1") == "reloading")
            running.kill("shared-0")
            await finish(waiting)
            assert {caller.outcome for caller in waiting} == {"ok"}
            assert all(caller.finals == 1 for caller in waiting)
            running.kill("shared-0")
            await until(lambda: callers.client.ready_workers("a:1") == 0)
            await until(lambda: callers.client.ready_workers("a:1") == 1)
            await until(lambda: desk.states().get("a:1") == "evicted")
        last = [callers.ask(float(i), variant="a:1") for i in range(CALLERS)]
        await finish(last)
        assert {caller.outcome for caller in last} == {"ok"}
        alive.cancel()

    with budgeted(*hosted, budget_bytes=1 << 40) as running:
        run(running, work)


def test_without_a_budget_all_stay() -> None:
    """The plain way: no setting, no model ever leaves, and the answers are the same."""

    async def traffic(desk: Desk, callers: Callers) -> None:
        for index in range(MODELS):
            await finish([ask(callers, index, float(index))])
        assert_answered(callers.all)
        await desk.until_fresh()
        assert set(desk.states().values()) == {"ready"}
        assert desk.total("salver_model_loads_total") == MODELS
        assert desk.total("salver_model_evictions_total") == 0

    with budgeted(*map(onnx, range(MODELS)), budget_bytes=0) as running:
        run(running, traffic)


def test_a_budget_of_gpu_memory_alone_bounds_no_other() -> None:
    """Without a GPU all models stay, whatever they take, and their worker does not wear out."""

    async def traffic(desk: Desk, callers: Callers) -> None:
        for _ in range(2):
            await finish([ask(callers, index, 2.0) for index in range(MODELS)])
        assert_answered(callers.all)
        await asyncio.sleep(0.5)
        await desk.until_fresh()
        assert desk.snapshot is not None
        assert desk.snapshot.state == "ready"
        assert set(desk.states().values()) == {"ready"}
        names = {gauge.name for gauge in desk.snapshot.gauges}
        assert "salver_gpu_memory_budget_bytes" in names
        assert "salver_memory_budget_bytes" not in names

    limits = {"gpu_memory_budget_bytes": 1 << 20, "worn_slack_bytes": 1, "worn_after_s": 0.1}
    with budgeted(*map(onnx, range(MODELS)), budget_bytes=0, **limits) as running:
        run(running, traffic)
