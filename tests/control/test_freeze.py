"""What is frozen is not changed, also by those who asked before."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from salver.core.clock import ManualClock
from salver.core.errors import DeadlineExceeded, EndpointFrozen
from salver.core.names import ModelReference
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.core.settings import ControlSettings, Settings
from salver.registry.records import EndpointSpec
from salver.rollout.machine import Command, Rollout
from tests.control.parts import Control, control, push, variant

POLICY = check_policy(RolloutPolicy(strategy="manual"))
ROLLOUT = Rollout("e", 0, "m:1", "m:2", POLICY, "s", 0, "alice", step=0, state="paused")


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Control]:
    """Give a control whose endpoint ``e`` serves the second of two versions, the first before."""
    parts = control(tmp_path, "one", ManualClock())
    push(parts, "m", 3)
    for number, serving in ((1, ()), (2, ("e m:1",))):
        new = parts.catalog.resolve(ModelReference("m", number))
        parts.placing.put(EndpointSpec("e", "m", number), new, serving, force=False)
    parts.serve(variant("m:2"), number=3)
    yield parts
    parts.thread.stop()


def overtaken(parts: Control, change: Callable[[], Awaitable[Any]]) -> None:
    """Ask for a change while rollouts are locked, freeze, and let it go on."""

    async def run() -> None:
        async with parts.runner.lock:
            asked = asyncio.ensure_future(change())
            # What the change does before it waits for the lock takes one round of the database.
            for _ in range(3):
                await asyncio.sleep(0)
                await parts.thread(lambda: None)
            parts.store.freeze("e", "outage", "bob")
        await asked

    with pytest.raises(EndpointFrozen, match="outage"):
        asyncio.run(run())


@pytest.mark.parametrize("kind", ["resume", "weight"])
def test_a_freeze_is_not_overtaken_by_what_waits(parts: Control, kind: str) -> None:
    """A rollout stays as it is when the freeze came before the change was made."""
    before = parts.begin(msgspec.structs.replace(ROLLOUT, source="m:2", target="m:3"))
    overtaken(parts, lambda: parts.rollouts.say("e", Command(kind, "alice", weight=100)))
    (record,) = parts.store.active()
    assert record.sequence == before.sequence


def test_a_freeze_is_not_overtaken_by_a_rollback(parts: Control) -> None:
    """The endpoint's earlier state does not come back."""
    assert parts.store.previous()["e"].spec.version == 1
    overtaken(parts, lambda: parts.rollouts.rollback("e", "alice", "", force=False))
    spec = parts.state.endpoint("e")
    assert spec is not None
    assert spec.version == 2


def test_a_freeze_is_not_overtaken_by_a_rollback_of_a_rollout(parts: Control) -> None:
    """It goes on waiting, unless somebody insists."""
    parts.begin(msgspec.structs.replace(ROLLOUT, source="m:2", target="m:3"))
    overtaken(parts, lambda: parts.rollouts.rollback("e", "alice", "", force=False))
    assert len(parts.store.active()) == 1
    parts.runner.lock = asyncio.Lock()
    # No loop makes plans here, so that it is not waited for long until one is in force.
    parts.reconciler.settings = Settings(control=ControlSettings(deploy_timeout_s=0.01))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(parts.rollouts.rollback("e", "alice", "", force=True))
    assert parts.store.active() == []


@pytest.mark.parametrize("lost", ["UPDATE ON rollouts", "INSERT ON freezes"])
def test_a_freeze_and_its_pause_are_one_change(parts: Control, lost: str) -> None:
    """When one of both cannot be written, neither is, so that what is frozen never runs on."""
    policy = check_policy(RolloutPolicy())
    parts.begin(
        msgspec.structs.replace(ROLLOUT, source="m:2", target="m:3", state="running", policy=policy)
    )
    with parts.database.write() as connection:
        connection.exec_driver_sql(
            f"CREATE TRIGGER lost BEFORE {lost} BEGIN SELECT RAISE(ABORT, 'lost'); END"
        )
    with pytest.raises(sa.exc.IntegrityError, match="lost"):
        asyncio.run(parts.rollouts.freeze("e", "outage", "bob"))
    (record,) = parts.store.active()
    assert (record.sequence, parts.store.frozen()) == (0, {})
    with parts.database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER lost")
    answer = asyncio.run(parts.rollouts.freeze("e", "outage", "bob"))
    assert answer["frozen"]["reason"] == "outage"
    (record,) = parts.store.active()
    assert (record.sequence, list(parts.store.frozen())) == (1, ["e"])


def test_a_frozen_endpoint_keeps_its_shadow(parts: Control) -> None:
    """A side is not ended either, until the endpoint is thawed."""
    asyncio.run(parts.companions.shadow("e", "3", 100, "alice", force=False))
    parts.store.freeze("e", "outage", "bob")
    with pytest.raises(EndpointFrozen):
        asyncio.run(parts.companions.stop("e", "shadow", "alice"))
    assert parts.sides.active()["e"].is_active
    parts.store.unfreeze("e")
    asyncio.run(parts.companions.stop("e", "shadow", "alice"))
    assert parts.sides.active() == {}
