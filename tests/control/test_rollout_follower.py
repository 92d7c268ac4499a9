"""Endpoints follow their aliases, each by itself, and at the latest when nothing is in the way."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.control.rollouts.journal import rollout_of
from salver.core.clock import ManualClock
from salver.core.errors import SideActive
from salver.core.names import ModelReference
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.registry.records import EndpointSpec
from tests.control.parts import Control, control, push, variant

POLICY = check_policy(RolloutPolicy())


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Control]:
    """Give a control with two endpoints that follow aliases, of which ``e`` answers."""
    parts = control(tmp_path, "one", ManualClock())
    for model, endpoint in (("a", "d"), ("b", "e")):
        push(parts, model, 3)
        parts.placing.move_alias(model, "best", 1, (), force=False)
        spec = EndpointSpec(endpoint, model, 1, "best", rollout=POLICY)
        parts.placing.put(spec, parts.catalog.resolve(ModelReference(model, 1)), (), force=False)
    parts.serve(variant("b:1"), number=3)
    yield parts
    parts.thread.stop()


def follow(parts: Control) -> list[str]:
    """Look at all aliases once and return what rollouts are on."""
    asyncio.run(parts.follower._follow())
    return [record.endpoint for record in parts.store.active()]


def test_an_alias_that_is_gone_stops_no_other_endpoint(parts: Control) -> None:
    """The endpoint whose alias is deleted stays; those after it begin their rollouts."""
    parts.placing.delete_alias("a", "best")
    parts.placing.move_alias("b", "best", 2, (), force=False)
    assert follow(parts) == ["e"]


def test_a_move_waits_while_a_side_goes_on(parts: Control) -> None:
    """It is not forgotten: the rollout begins when the shadow has ended."""
    asyncio.run(parts.companions.shadow("e", "3", 100, "alice", force=False))
    with pytest.raises(SideActive, match="shadow 1 of endpoint 'e' goes on"):
        asyncio.run(parts.companions.shadow("e", "2", 100, "alice", force=False))
    parts.placing.move_alias("b", "best", 2, (), force=False)
    for _ in range(3):
        assert follow(parts) == []
    asyncio.run(parts.companions.stop("e", "shadow", "alice"))
    assert follow(parts) == ["e"]


def test_what_other_controls_counted_before_belongs_to_nothing_new(parts: Control) -> None:
    """Epochs of plans that another control made are before the rollout, and before a side's end."""
    numbers = [parts.state.next_plan_number() for _ in range(20)]
    side = asyncio.run(parts.companions.shadow("e", "3", 100, "alice", force=False))
    assert side.first_epoch == numbers[-1]
    later = parts.state.next_plan_number()
    side = asyncio.run(parts.companions.stop("e", "shadow", "alice"))
    assert side.covers(later)
    assert not side.covers(later + 1)
    parts.placing.move_alias("b", "best", 2, (), force=False)
    assert follow(parts) == ["e"]
    (record,) = parts.store.active()
    assert rollout_of(record).first_epoch == later
