"""The loop that drives rollouts keeps their evidence apart, and loses none of it."""

import asyncio
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import sqlalchemy as sa

from salver.artifact.manifest import FileEntry, Manifest
from salver.control.hub import GATEWAY, SUPERVISOR
from salver.control.rollouts.analyst import Look
from salver.control.rollouts.commands import Start
from salver.control.rollouts.journal import line_of, record_of, rollout_of
from salver.control.rollouts.judging import columns_of, judge_policy
from salver.control.rollouts.looks import Seen
from salver.core.clock import ManualClock
from salver.core.errors import ControlUnavailable, InvalidSettings, NotReady
from salver.core.names import ModelReference
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.core.signature import Column, Signature, TensorSpec
from salver.observe.merge import Totals
from salver.registry.lease import STALE_S
from salver.registry.records import EndpointSpec, RolloutRecord
from salver.rollout.columns import encode_columns
from salver.rollout.gaps import Gaps
from salver.rollout.machine import ADVANCE, ROLL_BACK, Command, Finding, Rollout, command
from salver.wire.deaths import Death
from tests.control.parts import Control, control, variant
from tests.control.test_rollout_evidence import POLICY, counted

COLUMNS = columns_of(POLICY, judge_policy(POLICY), None)
ROLLOUT = Rollout(
    "e", 0, "m:1", "m:2", POLICY, "s1", 0, "alice", step=0, weight=5000,
    columns=encode_columns(COLUMNS),
)  # fmt: skip
REFUSE = (
    "CREATE TRIGGER full BEFORE INSERT ON rollout_evidence "
    "BEGIN SELECT RAISE(ABORT, 'refused'); END"
)


def canary(parts: Control, epoch: int, salt: str) -> None:
    """Let the plan say that a canary is on."""
    halves = (variant("m:1", weight=5000, epoch=epoch), variant("m:2", "canary", 5000, epoch))
    parts.serve(*halves, number=epoch, salt=salt, evidence=encode_columns(COLUMNS))


def test_after_a_takeover_evidence_is_that_of_the_rollout_which_is_on(
    parts: Control, tmp_path: Path, clock: ManualClock
) -> None:
    """What was counted for the one before, which another control has ended, judges nothing."""
    first = parts.begin(ROLLOUT)
    canary(parts, 7, "s1")
    asyncio.run(parts.runner._tick())
    parts.books.take("g1", counted(COLUMNS, "canary", 1500, 1400))
    parts.books.take("g1", counted(COLUMNS, "primary", 1500, 0))
    other = control(tmp_path, "two", clock)
    other.lease.renew()
    clock.advance(STALE_S)
    assert other.lease.renew()
    ended, line = command(first, Command("abort", "bob"))
    assert line is not None
    other.store.change(record_of(ended), line_of(line))
    second = other.begin(msgspec.structs.replace(ROLLOUT, salt="s2"))
    other.thread.stop()
    assert not parts.lease.renew()
    clock.advance(STALE_S)
    assert parts.lease.renew()
    asyncio.run(parts.runner._tick())
    assert parts.runner.current["e"].number == second.number == 2
    assert parts.runner.current["e"].state == "running"
    assert parts.runner.current["e"].requests == 0
    assert parts.books.observed("e") == []


def test_a_look_at_what_is_left_out_by_now_decides_nothing(parts: Control) -> None:
    """An analysis may take longer than an absence of the primary, and is of before or within it."""
    rollout = parts.begin(ROLLOUT)
    finding = Finding(ADVANCE, "no metric is worse")
    seen = Seen(Look(900, finding))
    seen_tick = asyncio.run(parts.runner._ticked(rollout, seen, 1.0))
    assert seen_tick.finding == finding
    short = msgspec.structs.replace(rollout, gaps=Gaps(begun=7))
    assert asyncio.run(parts.runner._ticked(short, seen, 1.0)).finding == finding
    for gaps in (Gaps(since=7), Gaps(((7, 8),))):
        later = msgspec.structs.replace(rollout, gaps=gaps)
        seen_tick = asyncio.run(parts.runner._ticked(later, seen, 1.0))
        assert (seen_tick.finding, seen_tick.requests) == (None, 900)


@pytest.mark.parametrize(("strategy", "adds_up"), [("canary", False), ("blue-green", True)])
def test_only_copies_are_judged_by_what_all_gateways_add_up(
    parts: Control, monkeypatch: pytest.MonkeyPatch, strategy: Literal["canary"], adds_up: bool
) -> None:
    """Adding up takes long where there are many endpoints, and would be done at each look."""
    asked: list[bool] = []
    merger = parts.runner._hub.merger
    totals = merger.totals

    def noted() -> Totals:
        asked.append(True)
        return totals()

    monkeypatch.setattr(merger, "totals", noted)
    parts.begin(msgspec.structs.replace(ROLLOUT, policy=RolloutPolicy(strategy=strategy)))
    canary(parts, 7, "s1")
    asyncio.run(parts.runner._tick())
    assert bool(asked) == adds_up


def test_a_control_that_is_in_charge_again_begins_with_what_is_stored(
    parts: Control, tmp_path: Path, clock: ManualClock
) -> None:
    """Meanwhile the same rollout's time and evidence may have gone on elsewhere."""
    first = parts.begin(ROLLOUT)
    canary(parts, 7, "s1")
    asyncio.run(parts.runner._tick())
    other = control(tmp_path, "two", clock)
    clock.advance(STALE_S)
    assert other.lease.renew()
    further = msgspec.structs.replace(first, running_s=1000.0)
    other.store.save(record_of(further), {})
    other.thread.stop()
    parts.lease.renew()
    clock.advance(STALE_S)
    assert parts.lease.renew()
    asyncio.run(parts.runner._tick())
    assert parts.runner.current["e"].running_s >= 1000.0


def test_evidence_whose_write_failed_is_written_with_the_next(
    parts: Control, clock: ManualClock
) -> None:
    """A block that is not stored could not be compared after a restart."""
    parts.begin(ROLLOUT)
    canary(parts, 7, "s1")
    with parts.database.write() as connection:
        connection.execute(sa.text(REFUSE))
    with pytest.raises(sa.exc.IntegrityError):
        asyncio.run(parts.runner._tick())
    parts.books.take("g1", counted(COLUMNS, "canary", 10, 0))
    assert parts.store.evidence("e", 1) == {}
    with parts.database.write() as connection:
        connection.execute(sa.text("DROP TRIGGER full"))
    clock.advance(2.0)
    asyncio.run(parts.runner._tick())
    assert set(parts.store.evidence("e", 1)) == {"block:7", "g1:7:canary"}


def crash(parts: Control, clock: ManualClock, *pids: int) -> None:
    """Let processes end in which the canary ran, as the supervisor and a gateway tell of it."""
    for pid in pids:
        death = Death("shared-0", pid, ("m:1", "m:2"), 7)
        parts.runner._hub.take_deaths(SUPERVISOR, [death])
        ran = msgspec.structs.replace(death, variants=("m:2",))
        parts.runner._hub.take_deaths(GATEWAY, [ran])
    clock.advance(2.0)


def test_a_promotion_that_is_refused_forgets_no_crash(parts: Control, clock: ManualClock) -> None:
    """What was seen when a person asked is still there when the loop looks."""
    parts.begin(ROLLOUT)
    asyncio.run(parts.runner._tick())
    crash(parts, clock, 1, 2, 3)
    with pytest.raises(NotReady):
        asyncio.run(parts.rollouts.say("e", Command("promote", "bob")))
    asyncio.run(parts.runner._tick())
    assert rollout_of(parts.store.newest("e")).state == "rolled_back"


def test_a_control_that_is_started_again_counts_no_crash_twice(
    parts: Control, tmp_path: Path, clock: ManualClock
) -> None:
    """It is told of all of them again, and adds what is new to what is stored."""
    parts.begin(ROLLOUT)
    crash(parts, clock, 1, 2)
    asyncio.run(parts.runner._tick())
    clock.advance(2.0)
    asyncio.run(parts.runner._tick())
    other = control(tmp_path, "one", clock)
    asyncio.run(other.runner._tick())
    assert other.runner.current["e"].crashes == 2
    crash(other, clock, 1, 2)
    asyncio.run(other.runner._tick())
    assert other.runner.current["e"].crashes == 2
    crash(other, clock, 3)
    asyncio.run(other.runner._tick())
    assert rollout_of(other.store.newest("e")).state == "rolled_back"
    other.thread.stop()


@pytest.mark.parametrize("fault", [RuntimeError("disk"), ControlUnavailable("disk")])
def test_a_rollout_that_cannot_be_written_down_stops_no_other(
    parts: Control, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """The others change, what passes is written down, and it is decided anew when it can be."""
    spec = EndpointSpec("g", "m", 1)
    parts.store.put(spec, spec, 60.0)
    for endpoint in ("e", "f"):
        parts.begin(msgspec.structs.replace(ROLLOUT, endpoint=endpoint))
    asyncio.run(parts.runner._tick())
    crash(parts, clock, 1, 2, 3)
    change, left_s = parts.store.change, parts.store.previous()["g"].left_s

    def refused(after: RolloutRecord, *rest: Any) -> None:
        if after.endpoint == "e":
            raise fault
        change(after, *rest)

    monkeypatch.setattr(parts.store, "change", refused)
    asyncio.run(parts.runner._tick())
    assert rollout_of(parts.store.newest("f")).state == "rolled_back"
    assert parts.runner.current["e"].state == "running"
    assert parts.store.previous()["g"].left_s < left_s
    monkeypatch.undo()
    asyncio.run(parts.runner._tick())
    assert rollout_of(parts.store.newest("e")).state == "rolled_back"


def test_what_a_metric_says_is_cleaned_of_what_databases_refuse(parts: Control) -> None:
    """A version that is left is marked with it, and PostgreSQL stores no zero byte."""
    rollout = parts.begin(ROLLOUT)
    seen = Seen(Look(900, Finding(ROLL_BACK, "worse\0by far")))
    finding = asyncio.run(parts.runner._ticked(rollout, seen, 1.0)).finding
    assert finding == Finding(ROLL_BACK, "worse\N{REPLACEMENT CHARACTER}by far")
    assert parts.runner.findings["e"] == finding


def test_what_could_never_be_judged_does_not_begin(parts: Control) -> None:
    """The model's own classes come to what a policy counts; what is too much then is refused."""
    classes = tuple(f"c{number}" for number in range(64))
    output = TensorSpec("y", "BYTES", (-1,), (Column("y", categories=classes),))
    for number in (1, 2):
        files = (FileEntry("model.onnx", f"{number:064x}", 1),)
        manifest = Manifest("onnx", files, Signature((), (output,)))
        parts.catalog.create_version("m", manifest, "alice", {})
    parts.state.put_endpoint(EndpointSpec("e", "m", 1))
    parts.serve(variant("m:1"), number=1)
    quantiles = [
        {"name": f"p{q}", "kind": "latency", "max_increase": 0.03, "quantile": q / 100}
        for q in (50, 95, 99)
    ]
    score = {"name": "score", "kind": "score", "max_increase": 0.01, "direction": "either"}
    analysis = {"metrics": [*quantiles, score], "score_edges": [i / 32 for i in range(1, 32)]}

    def start(**more: object) -> None:
        policy = RolloutPolicy(analysis={**analysis, **more})
        asyncio.run(parts.rollouts.start(Start("e", "2", policy, "alice")))

    with pytest.raises(InvalidSettings, match="columns are more than"):
        start()
    assert not parts.store.active()
    policy = check_policy(RolloutPolicy(analysis=analysis))
    parts.catalog.set_alias("m", "best", 1)
    parts.state.put_endpoint(EndpointSpec("e", "m", 1, "best", rollout=policy))
    for force in (False, True):
        with pytest.raises(InvalidSettings, match="columns are more than"):
            parts.placing.move_alias("m", "best", 2, (), force=force)
    assert parts.catalog.resolve(ModelReference("m", alias="best")).version == 1
    parts.catalog.set_alias("m", "best", 2)
    assert parts.placing.move_alias("m", "best", 1, (), force=False) == []
    start(labels=[])
    assert parts.store.active()
