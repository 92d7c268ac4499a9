"""Going back returns when it is in force."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from salver.control.hub import Hub
from salver.core.clock import ManualClock
from salver.core.errors import DeadlineExceeded
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.core.settings import ControlSettings, Settings
from salver.rollout.machine import Rollout
from tests.control.parts import Control, control, deploy_first, variant

POLICY = check_policy(RolloutPolicy(strategy="manual"))
ROLLOUT = Rollout("e", 0, "m:1", "m:2", POLICY, "s", 0, "alice", step=0, state="running")


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give the one gateway that control hears of, which acts on a plan when it says so."""
    peer = SimpleNamespace(acknowledged=3)
    monkeypatch.setattr(Hub, "peers", lambda _hub, _role: [peer])
    return peer


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Control]:
    """Give a control in the middle of a rollout whose canary gets traffic."""
    parts = control(tmp_path, "one", ManualClock())
    deploy_first(parts, 2)
    parts.begin(ROLLOUT)
    parts.serve(variant("m:1", weight=9_500), variant("m:2", "canary", 500), number=3)
    yield parts
    parts.thread.stop()


async def told(parts: Control, *, begun: bool = True) -> None:
    """Let those who wait look again after a round, and what they do then come to its end."""
    parts.reconciler.begun += begun
    async with parts.reconciler._round:
        parts.reconciler._round.notify_all()
    for _ in range(5):
        await asyncio.sleep(0)
        await parts.thread(lambda: None)


def back(parts: Control) -> "asyncio.Task[dict[str, Any]]":
    """Begin to go back."""
    return asyncio.create_task(parts.rollouts.rollback("e", "bob", "wrong", force=False))


def test_the_end_of_a_rollout_is_waited_for(parts: Control, gateway: SimpleNamespace) -> None:
    """The answer comes when the gateway acts on a plan in which the canary gets nothing."""

    async def run() -> None:
        task = back(parts)
        await told(parts)
        assert parts.store.active() == []
        assert not task.done(), "the plan still has the canary"
        parts.serve(variant("m:1"), variant("m:2", "kept", 0), number=4)
        await told(parts)
        assert not task.done(), "the gateway still acts on the plan before"
        gateway.acknowledged = 4
        await told(parts)
        assert task.done()
        assert (await task)["version"] == "m:1"

    asyncio.run(run())


def test_a_round_that_goes_on_already_does_not_count(
    parts: Control, gateway: SimpleNamespace
) -> None:
    """It may have read the rollout before it ended, and give the canary its first traffic."""

    async def run() -> None:
        parts.serve(variant("m:1"), variant("m:2", "canary", 0), number=3)
        task = back(parts)
        await told(parts, begun=False)
        assert not task.done()
        parts.serve(variant("m:1"), variant("m:2", "canary", 500), number=4)
        gateway.acknowledged = 4
        await told(parts)
        assert not task.done()
        parts.serve(variant("m:1"), number=5)
        gateway.acknowledged = 5
        await told(parts)
        assert (await task)["version"] == "m:1"

    asyncio.run(run())


def test_copies_are_waited_for_and_a_new_rollout_is_not(
    parts: Control, gateway: SimpleNamespace
) -> None:
    """A version that gets copies is in use; who begins another rollout has decided anew."""

    async def run() -> None:
        copied = msgspec.structs.replace(variant("m:2", "shadow", 0), sample=10_000)
        parts.serve(variant("m:1"), copied, number=4)
        gateway.acknowledged = 4
        task = back(parts)
        await told(parts)
        assert not task.done()
        again = parts.begin(msgspec.structs.replace(ROLLOUT, salt="t"))
        parts.runner.current["e"] = again
        await told(parts)
        assert task.done()

    asyncio.run(run())


def test_others_may_act_meanwhile(parts: Control, gateway: SimpleNamespace) -> None:
    """Who waits for gateways keeps no other rollout waiting."""

    async def run() -> None:
        task = back(parts)
        await told(parts)
        assert not parts.runner.lock.locked()
        gateway.acknowledged = 4
        parts.serve(variant("m:1"), number=4)
        await told(parts)
        await task

    asyncio.run(run())


def test_what_takes_too_long_is_said(parts: Control, gateway: SimpleNamespace) -> None:
    """A gateway that does not hear leaves the rollout ended, and who asked is told of the rest."""
    del gateway
    parts.reconciler.settings = Settings(control=ControlSettings(deploy_timeout_s=0.01))
    with pytest.raises(DeadlineExceeded, match="may still go to m:2"):
        asyncio.run(parts.rollouts.rollback("e", "bob", "", force=False))
    assert parts.store.active() == []
    record = parts.store.newest("e")
    assert msgspec.json.decode(record.body)["state"] == "rolled_back"
