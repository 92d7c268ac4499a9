"""Endpoints follow their aliases, each by itself, and at the latest when nothing is in the way."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from salver.artifact.manifest import FileEntry, Manifest
from salver.control.database import DatabaseThread
from salver.control.rollouts.commands import Start
from salver.control.rollouts.journal import rollout_of
from salver.core.clock import ManualClock
from salver.core.errors import ControlUnavailable, SideActive, SignatureChanged
from salver.core.names import ModelReference
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.core.signature import Signature, TensorSpec
from salver.registry.records import EndpointSpec
from salver.rollout.machine import PROMOTED, Command, Rollout, command
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


def test_a_change_of_something_else_is_no_way_around_the_rollout(parts: Control) -> None:
    """Deployed anew with more replicas it keeps its version, and the rollout begins all the same.

    That holds also where another endpoint had the alias's version rolled back, and forced.
    """
    parts.catalog.set_alias("b", "best", 2)
    with parts.database.write() as connection:
        parts.store._mark(connection, "other", "b:2", "it was worse")
    deployer = parts.rollouts._deployer
    for replicas, force in ((2, False), (3, True)):
        wish = EndpointSpec("e", "", replicas=replicas, rollout=POLICY)
        made = asyncio.run(deployer.put(wish, "b@best", force=force))
        assert (made.version, made.alias, made.replicas) == (1, "best", replicas)
    assert follow(parts) == []
    parts.catalog.set_alias("b", "best", 3)
    asyncio.run(deployer.put(EndpointSpec("e", "", replicas=2, rollout=POLICY), "b@best"))
    assert follow(parts) == ["e"]


@pytest.mark.parametrize(
    ("name", "model", "policy", "version"),
    [
        ("new", "b@best", POLICY, 2),
        ("e", "b@other", POLICY, 3),
        ("e", "a@best", POLICY, 1),
        ("e", "b@best", None, None),
        ("e", "b:3", POLICY, 3),
    ],
)
def test_what_follows_anew_begins_with_what_its_alias_means(
    parts: Control, name: str, model: str, policy: RolloutPolicy | None, version: int | None
) -> None:
    """A new endpoint, another alias or model, no policy any more, and a version that is named."""
    parts.catalog.set_alias("b", "best", 2)
    parts.catalog.set_alias("b", "other", 3)
    wish = EndpointSpec(name, "", rollout=policy)
    made = asyncio.run(parts.rollouts._deployer.put(wish, model))
    assert made.version == version


def promoted(parts: Control, target: str, by: str) -> EndpointSpec:
    """Return ``e`` after the promotion of a rollout that somebody began."""
    rollout = Rollout("e", 1, "b:1", target, POLICY, "s", 0, by, state=PROMOTED, weight=10_000)
    ending = parts.runner._ending(rollout)
    assert ending is not None
    assert ending.spec is not None
    return ending.spec


@pytest.mark.parametrize(
    ("by", "means", "alias"),
    [
        ("alias best", 2, "best"),
        ("alias best", 3, "best"),
        ("alias other", 1, None),
        ("alice", 1, None),
        ("alice", 2, "best"),
        ("alice", 3, "best"),
    ],
)
def test_what_is_promoted_beside_its_alias_begins_no_way_back(
    parts: Control, by: str, means: int, alias: str | None
) -> None:
    """Followed further is an alias that began the rollout, or has moved from what was left."""
    parts.catalog.set_alias("b", "best", means)
    spec = promoted(parts, "b:2", by)
    assert (spec.version, spec.alias) == (2, alias)
    parts.state.put_endpoint(spec)
    parts.serve(variant("b:2"), number=4)
    assert follow(parts) == (["e"] if alias and means == 3 else [])


def test_an_endpoint_that_was_promoted_beside_its_alias_goes_on_from_there(parts: Control) -> None:
    """Deployed or applied with the alias again it stays on its version, and a rollout begins."""
    parts.state.put_endpoint(promoted(parts, "b:2", "alice"))
    parts.serve(variant("b:2"), number=4)
    wish = EndpointSpec("e", "", replicas=2, rollout=POLICY)
    made = asyncio.run(parts.rollouts._deployer.put(wish, "b@best"))
    assert (made.version, made.alias, made.replicas) == (2, "best", 2)
    assert follow(parts) == ["e"]


def test_a_moment_without_the_database_loses_no_alias(
    parts: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the rollout is decided anew, instead of taking the alias for gone."""
    parts.catalog.set_alias("b", "best", 2)

    def away(_reference: ModelReference) -> None:
        raise ControlUnavailable("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(parts.catalog, "resolve", away)
        with pytest.raises(ControlUnavailable):
            promoted(parts, "b:2", "alice")
    assert promoted(parts, "b:2", "alice").alias == "best"


def test_an_alias_that_moves_while_a_promotion_is_written_is_followed(parts: Control) -> None:
    """There is nothing between the look at the alias and the change: they are one work."""
    asyncio.run(parts.rollouts.start(Start("e", "2", POLICY, "alice")))
    (record,) = parts.store.active()
    before = msgspec.structs.replace(rollout_of(record), step=0)
    after, line = command(before, Command("promote", "alice"))
    assert line is not None
    works: list[Callable[[], object]] = []

    async def moves_before(work: Callable[[], object]) -> object:
        works.append(work)
        parts.placing.move_alias("b", "best", 3, (), force=False)
        return await parts.thread(work)

    stores = parts.runner._stores
    parts.runner._stores = stores._replace(database=cast(DatabaseThread, moves_before))
    asyncio.run(parts.runner.commit(after, line))
    parts.runner._stores = stores
    assert len(works) == 1
    spec = parts.state.endpoint("e")
    assert spec is not None
    assert (spec.version, spec.alias) == (2, "best")
    parts.serve(variant("b:2"), number=4)
    assert follow(parts) == ["e"]


def test_a_promotion_outlives_its_alias(parts: Control) -> None:
    """One that is deleted is followed no further."""
    parts.placing.delete_alias("b", "best")
    assert promoted(parts, "b:2", "alice").alias is None


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


def meant(parts: Control) -> int:
    """Return which version the alias of ``e`` points to."""
    return parts.catalog.resolve(ModelReference("b", alias="best")).version


def test_an_alias_stays_where_its_endpoints_rollout_would_be_refused(parts: Control) -> None:
    """Whoever moves it is told so with the gate's code; forced is the alias, and no rollout."""
    files = (FileEntry("model.onnx", f"{4:064x}", 1),)
    asks_more = Signature((TensorSpec("x", "FP32", (-1,)),), ())
    parts.catalog.create_version("b", Manifest("onnx", files, asks_more), "alice", {})
    with pytest.raises(SignatureChanged, match="b:4"):
        parts.placing.move_alias("b", "best", 4, (), force=False)
    assert meant(parts) == 1
    (told,) = parts.placing.move_alias("b", "best", 4, (), force=True)
    assert told.startswith("endpoint 'e' stays: ")
    assert "[signature_changed]" in told
    assert "salver rollout start e --to b:4 --force" in told
    assert meant(parts) == 4
    assert follow(parts) == []
    assert parts.placing.move_alias("b", "best", 2, (), force=False) == []
    assert follow(parts) == ["e"]


def test_a_move_that_waits_is_not_asked_of_the_gates_yet(parts: Control) -> None:
    """What a side or a rollout leaves behind decides, which nobody knows before its end."""
    files = (FileEntry("model.onnx", f"{4:064x}", 1),)
    asks_more = Signature((TensorSpec("x", "FP32", (-1,)),), ())
    parts.catalog.create_version("b", Manifest("onnx", files, asks_more), "alice", {})
    asyncio.run(parts.companions.shadow("e", "3", 100, "alice", force=False))
    assert parts.placing.move_alias("b", "best", 4, (), force=False) == []
    assert meant(parts) == 4
