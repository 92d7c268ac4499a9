"""An analysis that does not come back holds up its own rollout only, and nobody's way out of it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from salver.control.rollouts.facts import Facts
from salver.control.rollouts.judging import columns_of, judge_policy
from salver.control.rollouts.plugin_looks import AT_ONCE
from salver.core.clock import ManualClock
from salver.core.errors import DeadlineExceeded
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.core.settings import ControlSettings, Settings
from salver.registry.lease import STALE_S
from salver.rollout.columns import Columns, encode_columns
from salver.rollout.machine import Command, Rollout
from salver.rollout.metrics.table import register
from salver.wire.messages import EndpointPlan, Plan
from tests.control import hanging
from tests.control.parts import Control, control, variant
from tests.control.test_rollout_evidence import counted

COUNTED = 1500
GIVEN_UP = "salver_rollout_analyses_given_up_total"


@pytest.fixture
def parts(tmp_path: Path, clock: ManualClock) -> Iterator[Control]:
    """Give a control whose plug-in hangs until it is let go."""
    register({"hangs": hanging.hangs, "ends": hanging.ends})
    hanging.let_go.clear()
    while hanging.entered.acquire(blocking=False):
        pass
    parts = control(tmp_path, "one", clock)
    yield parts
    hanging.let_go.set()
    for thread in threads():
        thread.join(30)
    register({})
    parts.thread.stop()


def rollout(endpoint: str, *kinds: str) -> Rollout:
    """Return a rollout in its first step that is judged by metrics, else by one that hangs."""
    metrics = [{"name": kind, "kind": kind, "max_increase": 0.001} for kind in kinds or ("hangs",)]
    analysis = {"warmup_s": 0, "warmup_requests": 1, "metrics": metrics}
    policy = check_policy(RolloutPolicy(min_requests=100, analysis=analysis))
    columns = encode_columns(columns_of(policy, judge_policy(policy), None))
    return Rollout(
        endpoint, 0, "m:1", "m:2", policy, "s", 0, "alice", step=0, weight=5000, columns=columns
    )


async def begun(parts: Control, *rollouts: Rollout, failed: int = 0) -> None:
    """Begin rollouts and take what a gateway has counted for them, which is not looked at yet."""
    halves = (variant("m:1", weight=5000, epoch=7), variant("m:2", "canary", 5000, 7))
    endpoints = []
    for each in rollouts:
        parts.begin(each)
        endpoints.append(EndpointPlan(each.endpoint, halves, salt="s", evidence=each.columns))
    parts.reconciler.plan = Plan(7, 0, tuple(endpoints))
    await parts.runner._tick()
    for each in rollouts:
        for arm, failures in (("canary", failed), ("primary", 0)):
            take(parts, each, "g1", arm, failures)


def take(parts: Control, rollout: Rollout, gateway: str, arm: str, failed: int) -> None:
    """Take what a gateway has counted for an arm."""
    columns = msgspec.msgpack.decode(rollout.columns, type=Columns)
    evidence = counted(columns, arm, COUNTED, failed)
    parts.books.take(gateway, msgspec.structs.replace(evidence, endpoint=rollout.endpoint))


def threads() -> list[threading.Thread]:
    """Return the threads in which rollouts are analysed."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("look-")]


def given_up(parts: Control) -> float:
    """Return how many analyses were given up."""
    counters = parts.runner._hub.merger.totals().counters
    return sum(value for (name, _), value in counters.items() if name == GIVEN_UP)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def looked(parts: Control, condition: Callable[[], bool]) -> None:
    """Look until something holds: what an analysis says may come with a later look."""
    async with asyncio.timeout(60):
        while not condition():
            await parts.runner._tick()


async def asked(parts: Control) -> None:
    """Look until the plug-in has been asked, which hangs."""
    await looked(parts, lambda: hanging.entered.acquire(blocking=False))


def is_in(parts: Control, wanted: str) -> bool:
    """Tell whether the rollout of ``e`` is in a state."""
    known = parts.runner.current.get("e")
    return known is not None and known.state == wanted


def state(parts: Control, endpoint: str) -> dict[str, Any]:
    """Return how a rollout is."""
    return asyncio.run(parts.rollouts.status(endpoint))


def test_others_go_on_and_people_are_heard_while_one_hangs(
    parts: Control, clock: ManualClock
) -> None:
    """Another rollout is judged, the hanging one is aborted at once, and its result is lost."""

    async def run() -> None:
        await begun(parts, rollout("e"), rollout("f", "error_rate"))
        ticking = asyncio.create_task(parts.runner._tick())
        await until(lambda: hanging.entered.acquire(blocking=False))
        assert not parts.runner.lock.locked()
        await ticking
        await looked(parts, lambda: parts.runner.current["f"].requests == COUNTED)
        assert parts.runner.current["e"].requests == 0
        said = await parts.rollouts.say("e", Command("abort", "bob", "enough"))
        assert said["state"] == "rolled_back"
        again = parts.begin(msgspec.structs.replace(rollout("e", "error_rate"), salt="t"))
        hanging.let_go.set()
        await until(lambda: not threads())
        for _ in range(3):
            await parts.runner._tick()
            assert parts.runner.current["e"].number == again.number == 2
            assert parts.runner.current["e"].requests == 0
        assert "e" in parts.runner.findings

    asyncio.run(run())


def test_a_freeze_and_a_rollback_do_not_wait_either(parts: Control) -> None:
    """Both need what the loop held while it analysed."""

    async def run() -> None:
        await begun(parts, rollout("e"))
        ticking = asyncio.create_task(parts.runner._tick())
        await until(lambda: hanging.entered.acquire(blocking=False))
        # No loop makes plans here, so that it is not waited for long until one is in force.
        parts.reconciler.settings = Settings(control=ControlSettings(deploy_timeout_s=0.01))
        with pytest.raises(DeadlineExceeded):
            await parts.rollouts.rollback("e", "bob", "", force=False)
        await ticking

    asyncio.run(run())
    assert threads(), "it hangs still"
    assert state(parts, "e")["state"] == "rolled_back"


@pytest.fixture
def answered(parts: Control, monkeypatch: pytest.MonkeyPatch) -> Control:
    """Give a control whose primaries answer; while one does not, nothing is compared."""
    monkeypatch.setattr(parts.runner, "facts", lambda _rollout: Facts(False, True, ""))
    return parts


def test_what_does_not_come_back_is_given_up_and_pauses(
    answered: Control, clock: ManualClock
) -> None:
    """It is counted once, no second thread begins, and a person may go on when it has come back."""

    async def run() -> None:
        await begun(answered, rollout("e"))
        await asked(answered)
        clock.advance(29.0)
        await answered.runner._tick()
        assert answered.runner.current["e"].state == "running"
        clock.advance(2.0)
        await looked(answered, lambda: is_in(answered, "paused"))
        for _ in range(3):
            await answered.runner._tick()
        paused = answered.runner.current["e"]
        assert (paused.state, paused.reason) == (
            "paused",
            "hangs could not be computed: its plug-in has not come back for 31 s",
        )
        assert given_up(answered) == 1
        await until(lambda: len(threads()) == 1)
        await answered.rollouts.say("e", Command("resume", "bob"))
        await looked(answered, lambda: is_in(answered, "paused"))
        hanging.let_go.set()
        await until(lambda: not threads())
        await answered.runner._tick()
        await answered.rollouts.say("e", Command("resume", "bob"))
        await looked(answered, lambda: answered.runner.current["e"].requests == COUNTED)
        assert answered.runner.current["e"].state == "running"
        assert given_up(answered) == 1

    asyncio.run(run())


def test_harm_that_own_metrics_show_does_not_wait_for_a_plug_in(parts: Control) -> None:
    """It is not even asked."""

    async def run() -> None:
        await begun(parts, rollout("e", "hangs", "error_rate"), failed=300)
        await looked(parts, lambda: "e" not in parts.runner.current)

    asyncio.run(run())
    assert state(parts, "e")["state"] == "rolled_back"
    assert not hanging.entered.acquire(blocking=False)


def test_harm_is_judged_while_a_plug_in_does_not_come_back(
    answered: Control, clock: ManualClock
) -> None:
    """The canary that was paused for it has traffic still."""

    async def run() -> None:
        await begun(answered, rollout("e", "hangs", "error_rate"))
        await asked(answered)
        clock.advance(31.0)
        await looked(answered, lambda: is_in(answered, "paused"))
        paused = answered.runner.current["e"]
        assert (paused.state, paused.weight) == ("paused", 5000)
        await answered.runner._tick()
        assert answered.runner.current["e"].state == "paused"
        for arm, failures in (("canary", 600), ("primary", 0)):
            take(answered, paused, "g2", arm, failures)
        await looked(answered, lambda: "e" not in answered.runner.current)

    asyncio.run(run())
    assert threads(), "it hangs still"
    assert state(answered, "e")["state"] == "rolled_back"


def test_what_was_open_when_another_control_was_in_charge_is_not_heard(
    parts: Control, tmp_path: Path, clock: ManualClock
) -> None:
    """It has counted what is not stored, and the books that it looks into are others now."""

    async def run() -> None:
        await begun(parts, rollout("e"))
        await asked(parts)
        other = control(tmp_path, "two", clock)
        other.lease.renew()
        clock.advance(STALE_S)
        assert other.lease.renew()
        other.thread.stop()
        assert not parts.lease.renew()
        clock.advance(STALE_S)
        assert parts.lease.renew()
        await parts.runner._tick()
        hanging.let_go.set()
        await until(lambda: not threads())
        for _ in range(3):
            await parts.runner._tick()
        now = parts.runner.current["e"]
        assert (now.state, now.requests) == ("running", 0)

    asyncio.run(run())


def test_only_so_many_may_hang(parts: Control, clock: ManualClock) -> None:
    """The next ones pause without a thread of their own, and the reason says what to do.

    Who has no plug-in is judged meanwhile and afterwards.
    """
    names = [f"e{n}" for n in range(AT_ONCE + 3)]

    def waiting() -> list[Rollout]:
        return [parts.runner.current[name] for name in names]

    async def run() -> None:
        await begun(parts, *[rollout(name) for name in names], rollout("f", "error_rate"))
        await looked(parts, lambda: parts.runner.current["f"].requests == COUNTED)
        await until(lambda: len(threads()) == AT_ONCE)
        own = parts.runner.current["f"]
        take(parts, own, "g2", "canary", 0)
        clock.advance(31.0)
        await looked(parts, lambda: {each.state for each in waiting()} == {"paused"})
        await looked(parts, lambda: parts.runner.current["f"].requests == 2 * COUNTED)
        await until(lambda: len(threads()) == AT_ONCE)
        reasons = [parts.runner.current[name].reason for name in names]
        assert sum("has not come back" in reason for reason in reasons) == AT_ONCE
        assert sum("control is restarted" in reason for reason in reasons) == 3
        assert parts.runner.current["f"].state == "running"

    asyncio.run(run())


def test_a_plug_in_cannot_end_control(parts: Control) -> None:
    """What it raises pauses its rollout, whatever it is."""

    async def run() -> None:
        await begun(parts, rollout("e", "ends"))
        await looked(parts, lambda: is_in(parts, "paused"))

    asyncio.run(run())
    assert parts.runner.current["e"].state == "paused"
    assert "enough" in parts.runner.current["e"].reason
