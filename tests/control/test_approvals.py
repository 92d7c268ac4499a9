"""Versions take the place of others only when enough people approve of them."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from salver.artifact.manifest import FileEntry
from salver.control.audit import Audit
from salver.control.push import Push, Pushed, Pusher
from salver.control.rollouts.commands import Start
from salver.control.rollouts.sides import ExperimentPlan
from salver.core.clock import ManualClock
from salver.core.errors import (
    ApprovalMissing,
    Conflict,
    DeadlineExceeded,
    EndpointFrozen,
    InvalidRequest,
    SalverError,
)
from salver.core.names import ModelReference
from salver.core.rollouts import RolloutPolicy
from salver.core.settings import ControlSettings, Settings
from salver.core.sides import Side
from salver.registry.blobs import BlobStore
from salver.registry.records import EndpointSpec, VersionRecord
from tests.control.parts import Control, control, push, variant
from tests.models import onnx_identity

SPEC = EndpointSpec("e", "m", 1, approvals=2)


@pytest.fixture
def parts(tmp_path: Path, clock: ManualClock) -> Iterator[Control]:
    """Give a control whose endpoint ``e`` serves the first of four versions; two must approve."""
    parts = control(tmp_path, "one", clock)
    push(parts, "m", 4)
    parts.placing.put(SPEC, version(parts, 1), (), force=False)
    parts.serve(variant("m:1"), number=1)
    yield parts
    parts.thread.stop()


def version(parts: Control, number: int) -> VersionRecord:
    """Return a version."""
    return parts.catalog.resolve(ModelReference("m", number))


def deploy(
    parts: Control, number: int, by: str = "alice", *, force: bool = False, **change: object
) -> EndpointSpec:
    """Deploy a version, saying nothing of approvals."""
    wanted = EndpointSpec("e", "m", number, approvals=None, webhooks=None)
    wanted = msgspec.structs.replace(wanted, **change)
    return parts.placing.put(wanted, version(parts, number), ("e m:1",), force=force, by=by)


def approve(parts: Control, person: str, to: str = "") -> dict[str, object]:
    """Approve of a version."""
    return asyncio.run(parts.rollouts.approve("e", to, person, "checked"))


def test_a_deploy_takes_enough_people(parts: Control) -> None:
    """Two of them, one of whom is not who deploys; force does not help; the demand stays."""
    with pytest.raises(ApprovalMissing, match="0 of 2 approvals"):
        deploy(parts, 2, force=True)
    approve(parts, "alice", "2")
    with pytest.raises(Conflict):
        approve(parts, "ALICE", "2")
    with pytest.raises(ApprovalMissing, match="1 of 2"):
        deploy(parts, 2)
    answer = approve(parts, "bob", "m:2")
    assert answer["version"] == "m:2"
    assert answer["approvals"] == {
        "needed": 2, "by": ["alice", "bob"], "digest": version(parts, 2).digest,
    }  # fmt: skip
    assert deploy(parts, 2).approvals == 2
    event = parts.state.events(1)[0]
    assert (event.actor, event.action, event.subject) == ("bob", "approve", "e")
    assert event.details["version"] == "m:2"


def test_who_deploys_does_not_approve_alone(parts: Control) -> None:
    """One approval is another person's."""
    deploy(parts, 1, force=True, approvals=1)
    approve(parts, "alice", "2")
    with pytest.raises(ApprovalMissing, match="nobody but alice"):
        deploy(parts, 2, by="alice")
    assert deploy(parts, 2, by="bob").version == 2


def test_approvals_are_of_one_version_for_one_endpoint(parts: Control) -> None:
    """Another version, and the same one elsewhere, need their own."""
    approve(parts, "bob", "2")
    approve(parts, "carol", "2")
    with pytest.raises(ApprovalMissing):
        deploy(parts, 3)
    other = EndpointSpec("f", "m", 1, approvals=1)
    parts.placing.put(other, version(parts, 1), (), force=False)
    moved = msgspec.structs.replace(other, version=2)
    with pytest.raises(ApprovalMissing):
        parts.placing.put(moved, version(parts, 2), (), force=True, by="alice")


def test_what_was_rolled_back_needs_new_ones(parts: Control) -> None:
    """That people approved of it before it failed says nothing any more."""
    for person in ("bob", "carol"):
        approve(parts, person, "2")
    present = deploy(parts, 2)
    assert parts.store.previous()["e"].spec.version == 1
    restored = parts.store.restore(present, "m:2", "by bob: slow")
    assert (restored.version, restored.approvals) == (1, 2)
    with pytest.raises(ApprovalMissing, match="0 of 2"):
        deploy(parts, 2, force=True)


def test_an_alias_that_moves_takes_them_too(parts: Control) -> None:
    """Without a policy it changes over at once, so the move is refused before it is made."""
    parts.catalog.set_alias("m", "best", 1)
    deploy(parts, 1, alias="best", version=None)
    with pytest.raises(ApprovalMissing):
        parts.placing.move_alias("m", "best", 2, (), force=True, by="alice")
    assert parts.catalog.model("m").aliases == {"best": 1}
    for person in ("alice", "bob"):
        approve(parts, person, "2")
    parts.placing.move_alias("m", "best", 2, (), force=False, by="alice")
    assert parts.catalog.model("m").aliases == {"best": 2}


def test_an_alias_that_was_removed_takes_them_when_it_comes_back(parts: Control) -> None:
    """The endpoint that follows it would change over without its present version being known."""
    parts.catalog.set_alias("m", "best", 1)
    deploy(parts, 1, alias="best", version=None)
    parts.placing.delete_alias("m", "best")
    with pytest.raises(ApprovalMissing):
        parts.placing.move_alias("m", "best", 2, (), force=True, by="alice")
    assert parts.catalog.model("m").aliases == {}
    for person in ("alice", "bob"):
        approve(parts, person, "2")
    parts.placing.move_alias("m", "best", 2, (), force=False, by="alice")
    assert parts.catalog.model("m").aliases == {"best": 2}


def test_a_push_that_moves_an_alias_is_of_whoever_pushes(parts: Control, tmp_path: Path) -> None:
    """They are not the only ones who approve, as if they had moved the alias with its command."""
    blobs, moves = BlobStore(tmp_path), partial(parts.rollouts._deployer.move_alias, force=False)
    audit = Audit(parts.state, parts.thread)
    pusher = Pusher(blobs, parts.catalog, parts.thread, Settings(), moves, audit, parts.lease)
    blobs.provision()

    def pushed(scale: int, user: str, alias: str = "") -> Pushed:
        content = onnx_identity("FP32", scale).read_bytes()
        file = FileEntry("model.onnx", blobs.put(content), len(content))
        return asyncio.run(pusher(Push("n", (file,), alias=alias, provenance={"user": user})))

    first, second = pushed(1, "alice").record, pushed(2, "alice").record
    parts.catalog.set_alias("n", "best", first.version)
    parts.placing.remove("e", force=True)
    parts.placing.put(EndpointSpec("e", "n", alias="best", approvals=1), first, (), force=False)
    approve(parts, "alice", second.id)
    with pytest.raises(ApprovalMissing, match="nobody but alice"):
        pushed(2, "alice", "best")
    assert (parts.state.events(1)[0].action, parts.state.events(1)[0].subject) == ("push", "n:2")
    assert pushed(2, "bob", "best").existing
    said = [(event.action, event.subject, event.actor) for event in parts.state.events(2)]
    assert said == [("alias", "n@best", "bob"), ("push", "n:2", "local")]
    assert parts.catalog.model("n").aliases == {"best": second.version}


def test_fewer_are_demanded_only_when_forced(parts: Control) -> None:
    """A deploy that lowers the number by the way is refused, and none changes the version so."""
    with pytest.raises(ApprovalMissing, match="--force"):
        deploy(parts, 1, approvals=0)
    with pytest.raises(ApprovalMissing):
        deploy(parts, 2, approvals=0, force=True)
    assert deploy(parts, 1, approvals=3).approvals == 3
    assert deploy(parts, 1, approvals=0, force=True).approvals == 0
    assert deploy(parts, 2).approvals == 0


def test_the_first_version_and_the_next_endpoint_of_a_name_need_nobody(parts: Control) -> None:
    """Removing an endpoint forgets what it demanded and who approved, so it is forced."""
    approve(parts, "bob", "2")
    with pytest.raises(ApprovalMissing, match="--force"):
        parts.placing.remove("e")
    parts.placing.remove("e", force=True)
    parts.placing.put(SPEC, version(parts, 2), (), force=False)
    assert parts.rollouts._gates.approvals.of("e", version(parts, 2)) == []


def test_an_arm_of_an_experiment_takes_them(parts: Control) -> None:
    """Its part of the callers may be nearly all; copies answer nobody and need nobody."""
    plan = ExperimentPlan(("1", "2"), (1, 9_999), "outcome")

    def begin() -> Side:
        return asyncio.run(parts.companions.experiment("e", plan, "alice", force=True))

    approve(parts, "alice", "2")
    with pytest.raises(ApprovalMissing, match="1 of 2"):
        begin()
    asyncio.run(parts.companions.shadow("e", "2", 100, "alice", force=False))
    asyncio.run(parts.companions.stop("e", "shadow", "alice"))
    approve(parts, "bob", "2")
    assert begin().weights["m:2"] == 9_999


def start(parts: Control, to: str) -> dict[str, object]:
    """Begin a rollout of alice's."""
    return asyncio.run(parts.rollouts.start(Start("e", to, RolloutPolicy(), "alice")))


def test_a_rollout_begins_with_the_approvals_there_are(parts: Control) -> None:
    """They are in its first event with the version's digest, and more come to it, not to others."""
    approve(parts, "bob", "2")
    assert start(parts, "2")["approvals"] == {"needed": 2, "by": ["bob"]}
    history = asyncio.run(parts.rollouts.history("e", 10))
    assert history[0]["evidence"]["approvals"]["digest"] == version(parts, 2).digest
    approve(parts, "carol", "3")
    with pytest.raises(Conflict, match="counts once"):
        approve(parts, "bob")
    answer = approve(parts, "dave", "2")
    assert answer["approvals"] == {"needed": 2, "by": ["bob", "dave"]}
    newest = asyncio.run(parts.rollouts.history("e", 1))[0]
    assert (newest["event"], newest["actor"], newest["reason"]) == ("approve", "dave", "checked")
    assert newest["evidence"]["approvals"]["by"] == ["bob", "dave"]


def test_the_next_rollout_to_another_version_begins_without(parts: Control) -> None:
    """What was approved in one is void for the next."""
    start(parts, "2")
    for person in ("bob", "carol"):
        approve(parts, person)
    # No loop makes plans here, so that it is not waited for long until one is in force.
    parts.reconciler.settings = Settings(control=ControlSettings(deploy_timeout_s=0.01))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(parts.rollouts.rollback("e", "alice", "", force=False))
    assert start(parts, "3")["approvals"] == {"needed": 2, "by": []}


@pytest.mark.parametrize(
    ("prepare", "to", "error"),
    [
        (lambda parts: None, "", InvalidRequest),
        (lambda parts: None, "9", SalverError),
        (lambda parts: parts.store.freeze("e", "outage", "bob"), "2", EndpointFrozen),
        (lambda parts: deploy(parts, 1, approvals=0, force=True), "2", Conflict),
    ],
)
def test_approvals_that_mean_nothing_are_refused(
    parts: Control, prepare: Callable[[Control], object], to: str, error: type[SalverError]
) -> None:
    """Of no version, of one that is none, of a frozen endpoint, and where none are demanded."""
    prepare(parts)
    with pytest.raises(error):
        approve(parts, "bob", to)


def test_a_control_on_standby_takes_none(
    parts: Control, tmp_path: Path, clock: ManualClock
) -> None:
    """Whoever is in charge does."""
    other = control(tmp_path, "two", clock)
    assert other.lease.fence == 0
    with pytest.raises(SalverError, match="in charge"):
        approve(other, "bob", "2")
    other.thread.stop()
