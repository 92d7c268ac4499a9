"""Endpoints and aliases are changed whole, and by the control that is in charge only."""

from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from salver.core.clock import ManualClock
from salver.core.errors import RolloutActive, SalverError, SideActive, Standby
from salver.core.names import ModelReference
from salver.core.rollouts import RolloutPolicy
from salver.core.sides import Side, SideArm
from salver.registry.lease import STALE_S
from salver.registry.records import EndpointSpec
from salver.rollout.machine import Rollout
from tests.control.parts import Control, control, push

FOLLOWS = EndpointSpec("e", "m", alias="best")
OTHER = EndpointSpec("f", "m", alias="best")


def in_charge(path: Path, clock: ManualClock) -> Control:
    """Return a control with two versions and two endpoints that follow the alias of one."""
    first = control(path, "one", clock)
    push(first, "m", 2)
    first.placing.move_alias("m", "best", 1, (), force=False)
    for spec in (FOLLOWS, OTHER):
        first.placing.put(spec, first.catalog.resolve(ModelReference("m", 1)), (), force=False)
    return first


def test_a_standby_control_changes_nothing(tmp_path: Path) -> None:
    """What it is asked to delete or move is still there after it has refused."""
    clock = ManualClock()
    first = in_charge(tmp_path, clock)
    second = control(tmp_path, "two", clock)
    assert not second.lease.fence
    before = (first.state.endpoints(), first.catalog.model("m"))
    for change in (
        lambda: second.placing.remove("e"),
        lambda: second.placing.move_alias("m", "best", 2, (), force=True),
        lambda: second.placing.move_alias("m", "best", 2, ("e m:1",), force=True),
        lambda: second.placing.move_alias("m", "new", 2, (), force=True),
        lambda: second.placing.delete_alias("m", "best"),
    ):
        with pytest.raises(Standby):
            change()
        assert (first.state.endpoints(), first.catalog.model("m")) == before
        assert first.store.previous() == {}
    first.placing.remove("e")
    assert [spec.name for spec in first.state.endpoints()] == ["f"]


def test_a_control_that_was_taken_over_changes_nothing(tmp_path: Path) -> None:
    """It is refused although it has not yet heard of it."""
    clock = ManualClock()
    first = in_charge(tmp_path, clock)
    second = control(tmp_path, "two", clock)
    clock.advance(STALE_S)
    assert second.lease.renew()
    assert first.lease.fence
    with pytest.raises(Standby):
        first.placing.remove("e")
    assert first.state.endpoint("e") is not None


def test_an_alias_stays_while_something_goes_on_at_an_endpoint_that_lives_from_it(
    tmp_path: Path,
) -> None:
    """Without a policy an endpoint has no version but the alias's; with one it keeps its own."""
    first = in_charge(tmp_path, ManualClock())
    first.begin(Rollout("e", 0, "m:1", "m:2", RolloutPolicy(), "s", 0, "alice"))
    with pytest.raises(RolloutActive, match="'e'"):
        first.placing.delete_alias("m", "best")
    kept = msgspec.structs.replace(FOLLOWS, version=1, rollout=RolloutPolicy())
    first.store.put(kept, None, 0.0)
    arms = (SideArm("m:2", sample=100),)
    first.sides.begin("f", lambda number: Side("f", number, "shadow", arms, "s", 0, 0, "alice"))
    with pytest.raises(SideActive, match="'f'"):
        first.placing.delete_alias("m", "best")
    assert first.catalog.model("m").aliases == {"best": 1}
    first.sides.end("f", "shadow", 1, 1)
    first.placing.delete_alias("m", "best")
    assert first.catalog.model("m").aliases == {}


def test_an_alias_moves_with_all_that_follows_it_or_not_at_all(tmp_path: Path) -> None:
    """When the last of the writes fails, no endpoint has an earlier state to go back to."""
    first = in_charge(tmp_path, ManualClock())
    database = first.database
    with database.write() as connection:
        connection.execute(
            sa.text(
                "CREATE TRIGGER full BEFORE UPDATE ON aliases "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        )
    before = first.state.endpoints()
    with pytest.raises((sa.exc.DBAPIError, SalverError)):
        first.placing.move_alias("m", "best", 2, ("e m:1", "f m:1"), force=False)
    assert first.store.previous() == {}
    assert first.state.endpoints() == before
    with database.write() as connection:
        connection.execute(sa.text("DROP TRIGGER full"))
    first.placing.move_alias("m", "best", 2, ("e m:1", "f m:1"), force=False)
    earlier = msgspec.structs.replace(first.store.previous()["e"].spec, generation=0)
    assert (earlier.version, earlier.alias) == (1, None)
    assert sorted(first.store.previous()) == ["e", "f"]
