"""Experiments whose split follows success: written down before it is so, at a bounded pace."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from salver.cli.experiment_plot import plot_svg
from salver.control.rollouts.experiments import pause_s
from salver.control.rollouts.side_reports import SideReports
from salver.control.rollouts.sides import ExperimentPlan
from salver.core.clock import ManualClock
from salver.core.errors import Conflict, InvalidRequest, SalverError
from salver.core.names import ModelReference
from salver.core.routing import Routing
from salver.core.settings import ControlSettings, Settings
from salver.core.sides import Side
from salver.observe.merge import Merger, Totals
from salver.registry.feedback import FeedbackStore, Outcome
from salver.registry.records import EndpointSpec
from salver.rollout.columns import Columns, encode_columns
from salver.rollout.outcomes import BETTER, NO_VERDICT
from salver.rollout.tally import LATENCY_BINS, REQUESTS, SEGMENTS, Layout, Table, pack
from salver.traffic.keys import sticky_point
from salver.wire.messages import Evidence
from tests.control.parts import Control, control, push, variant

PLAN = ExperimentPlan(("1", "2"), (), "paid", 1_000)
COLUMNS = encode_columns(Columns(Layout(), Layout()))
SPLIT_S = 60.0


def made(folder: Path, clock: ManualClock) -> Control:
    """Return a control whose endpoint ``e`` serves the first of two versions."""
    parts = control(folder, "one", clock)
    if not parts.state.endpoints():
        push(parts, "m", 2)
        new = parts.catalog.resolve(ModelReference("m", 1))
        spec = EndpointSpec("e", "m", 1, routing=Routing("header:x-user"))
        parts.placing.put(spec, new, (), force=False)
    parts.serve(variant("m:1"), number=3)
    return parts


@pytest.fixture
def parts(tmp_path: Path, clock: ManualClock) -> Iterator[Control]:
    """Give a control with that endpoint."""
    found = made(tmp_path, clock)
    yield found
    found.thread.stop()


def begin(parts: Control, plan: ExperimentPlan = PLAN) -> Side:
    """Start an experiment, whose plan is in force at once."""
    side = asyncio.run(parts.companions.experiment("e", plan, "alice", force=False))
    serve(parts, side, 4)
    return side


def serve(parts: Control, side: Side, number: int) -> None:
    """Let the plan be what an experiment wants."""
    first, second = side.weights.values()
    parts.serve(
        variant("m:1", weight=first, epoch=number),
        variant("m:2", "arm", second, number),
        number=number,
        salt=side.salt,
        evidence=COLUMNS,
        floor=side.floor,
    )


def look(parts: Control, clock: ManualClock, seconds: float) -> None:
    """Let time pass in looks of a second."""
    for _ in range(round(seconds)):
        clock.advance(1.0)
        asyncio.run(parts.experiments.look(SPLIT_S))


def outcomes(parts: Control, epoch: int, rates: tuple[float, float], count: int = 600) -> None:
    """Report outcomes of callers all over the floors."""
    rng = np.random.default_rng(epoch)
    reported = []
    for number in range(count):
        place = int(rng.integers(0, 2_000))
        version = 2 if place < 1_000 else 1
        value = float(rng.random() < rates[version - 1])
        reported.append(Outcome(f"{epoch}-{number}", "paid", value, version, epoch, place))
    FeedbackStore(parts.database).take("e", reported, 0)


def counted(parts: Control, epoch: int, arm: str, segments: range, each: int = 3) -> None:
    """Let a gateway report requests of an arm."""
    rows = np.zeros((SEGMENTS, Layout().width))
    rows[segments.start : segments.stop, REQUESTS] = each
    packed = pack(Table(rows, np.zeros(LATENCY_BINS)))
    message = Evidence("e", epoch, arm, 1, packed.width, packed.rows, packed.bins)
    parts.experiments.take("gateway", message)


def side_of(parts: Control) -> Side:
    """Return the experiment as it is stored."""
    return parts.sides.newest("e", "experiment")


def test_the_split_follows_success_at_a_bounded_pace(parts: Control, clock: ManualClock) -> None:
    """Once a minute, down to the floor, each time with an event that says why."""
    begin(parts)
    assert side_of(parts).weights == {"m:1": 5_000, "m:2": 5_000}
    look(parts, clock, 2)
    outcomes(parts, 4, (0.1, 0.5))
    look(parts, clock, SPLIT_S - 4)
    assert side_of(parts).changes == 0
    look(parts, clock, 4)
    changed = side_of(parts)
    assert (changed.changes, changed.weights) == (1, {"m:1": 1_000, "m:2": 9_000})
    (event,) = asyncio.run(reports(parts).history("e"))
    assert event["percent"] == {"m:1": 10.0, "m:2": 90.0}
    assert event["best"]["m:2"] > 0.99
    assert event["means"]["m:2"] > event["means"]["m:1"]
    assert event["outcomes"]["m:1"] + event["outcomes"]["m:2"] == 600
    assert parts.state.events()[0].action == "experiment split"
    serve(parts, changed, 5)
    look(parts, clock, SPLIT_S + 5)
    assert side_of(parts).changes == 1
    assert parts.sides.evidence(changed).keys() == {"block:4", "block:5"}


def test_nobody_is_moved_by_the_draws_alone(parts: Control, clock: ManualClock) -> None:
    """Without outcomes, and with the same ones looked at again, callers stay where they are."""
    begin(parts)
    look(parts, clock, 2 * SPLIT_S + 2)
    assert side_of(parts).changes == 0
    outcomes(parts, 4, (0.3, 0.3))
    look(parts, clock, SPLIT_S)
    changes = side_of(parts).changes
    serve(parts, side_of(parts), 5)
    look(parts, clock, 3 * SPLIT_S)
    assert side_of(parts).changes == changes


def test_a_control_that_is_killed_goes_on(
    parts: Control, clock: ManualClock, tmp_path: Path
) -> None:
    """Its successor has the weights, the blocks and the traffic, and waits for a whole pause."""
    begin(parts)
    look(parts, clock, 1)
    counted(parts, 4, "m:2", range(200))
    counted(parts, 4, "primary", range(200, 400))
    outcomes(parts, 4, (0.1, 0.5))
    look(parts, clock, SPLIT_S - 2)
    again = made(tmp_path, clock)
    serve(again, side_of(again), 4)
    look(again, clock, SPLIT_S - 2)
    assert side_of(again).changes == 0
    look(again, clock, 4)
    assert side_of(again).weights == {"m:1": 1_000, "m:2": 9_000}
    found = asyncio.run(reports(again).experiment("e"))
    assert [arm["requests"] for arm in found["sample_ratio"]["arms"]] == [600, 600]
    assert found["arms"][1]["verdict"] == BETTER
    again.thread.stop()


def test_a_change_that_was_overtaken_is_not_written(parts: Control) -> None:
    """Two controls cannot both change the weights, nor one those of an ended experiment."""
    side = begin(parts)
    later = msgspec.structs.replace(side, changes=1)
    parts.sides.change(later, b"{}", 0)
    with pytest.raises(Conflict):
        parts.sides.change(later, b"{}", 0)
    asyncio.run(parts.companions.stop("e", "experiment", "alice"))
    with pytest.raises(Conflict):
        parts.sides.change(msgspec.structs.replace(side, changes=2), b"{}", 0)


def test_a_frozen_endpoint_keeps_its_weights(parts: Control, clock: ManualClock) -> None:
    """Until somebody thaws it."""
    begin(parts)
    look(parts, clock, 1)
    outcomes(parts, 4, (0.1, 0.5))
    parts.store.freeze("e", "outage", "bob")
    look(parts, clock, SPLIT_S + 5)
    assert side_of(parts).changes == 0
    parts.store.unfreeze("e")
    look(parts, clock, SPLIT_S + 5)
    assert side_of(parts).changes == 1


def test_a_fault_in_a_split_stops_nothing_else(
    parts: Control, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, the look goes on to its end, and the split is tried again later."""

    def broken(*_arguments: object, **_options: object) -> None:
        raise FloatingPointError

    begin(parts)
    look(parts, clock, 1)
    outcomes(parts, 4, (0.1, 0.5))
    with monkeypatch.context() as patched:
        patched.setattr("salver.control.rollouts.experiments.thompson_split", broken)
        look(parts, clock, SPLIT_S + 5)
    assert side_of(parts).changes == 0
    look(parts, clock, SPLIT_S)
    assert side_of(parts).changes == 1


def test_a_mismatch_gives_no_verdict_and_moves_nobody(parts: Control, clock: ManualClock) -> None:
    """An arm without its traffic may look better for that alone."""
    begin(parts)
    look(parts, clock, 1)
    counted(parts, 4, "m:2", range(60))
    counted(parts, 4, "primary", range(200, 400))
    outcomes(parts, 4, (0.1, 0.5))
    look(parts, clock, SPLIT_S + 5)
    assert side_of(parts).changes == 0
    found = asyncio.run(reports(parts).experiment("e"))
    assert not found["sample_ratio"]["holds"]
    assert "m:2 got 180 requests beside 600 of m:1" in found["sample_ratio"]["reason"]
    assert [arm["verdict"] for arm in found["arms"]] == [NO_VERDICT, NO_VERDICT]
    assert found["arms"][1]["estimate"] is None
    plot = plot_svg(found)
    assert "no verdict" in plot
    assert "circle" not in plot


def test_less_is_better_where_somebody_says_so(parts: Control, clock: ManualClock) -> None:
    """A metric may be what one wants little of."""
    begin(parts, PLAN._replace(prefers_less=True))
    look(parts, clock, 1)
    outcomes(parts, 4, (0.1, 0.5))
    look(parts, clock, SPLIT_S)
    assert side_of(parts).weights == {"m:1": 9_000, "m:2": 1_000}


def test_what_was_known_of_callers_is_found_by_their_keys(parts: Control) -> None:
    """Sums by place, replaced as a whole, and no key is kept."""
    side = begin(parts)
    callers = [("alice", 3.0), ("bob", 5.0)]
    asyncio.run(parts.companions.covariate("e", [("eve", 9.0)], replaces=True))
    asyncio.run(parts.companions.covariate("e", callers[:1], replaces=True))
    asyncio.run(parts.companions.covariate("e", callers[1:], replaces=False))
    expected = {sticky_point("e", key, side.salt): (1, value) for key, value in callers}
    assert parts.sides.covariate(side) == expected
    with pytest.raises(InvalidRequest, match="number"):
        asyncio.run(parts.companions.covariate("e", [("eve", float("nan"))], replaces=True))
    assert asyncio.run(reports(parts).experiment("e"))["callers_known"] == 2


def test_without_keys_nobody_can_be_known(parts: Control) -> None:
    """It is refused with how to get keys."""
    begin(parts)
    spec = parts.state.endpoint("e")
    assert spec is not None
    parts.state.put_endpoint(msgspec.structs.replace(spec, routing=Routing()))
    with pytest.raises(InvalidRequest, match="routing key"):
        asyncio.run(parts.companions.covariate("e", [("eve", 1.0)], replaces=True))


def test_a_report_keeps_what_its_callers_were(parts: Control) -> None:
    """What an endpoint does after the end makes no two pieces of evidence of one caller."""
    side = begin(parts)
    asyncio.run(parts.companions.stop("e", "experiment", "alice"))
    spec = parts.state.endpoint("e")
    assert spec is not None
    parts.state.put_endpoint(msgspec.structs.replace(spec, routing=Routing()))
    assert side.sticky
    assert asyncio.run(reports(parts).experiment("e"))["sticky"]


@pytest.mark.parametrize("floor", [0, 50, 150, 5_100])
def test_floors_that_cannot_be_are_refused(parts: Control, floor: int) -> None:
    """Whole percents, which all arms can have."""
    with pytest.raises(InvalidRequest, match="1 to 50 whole percents"):
        begin(parts, PLAN._replace(floor=floor))


def test_pauses_grow_so_that_changes_stay_few() -> None:
    """In a month of minutes there are some two hundred."""
    passed_s, changes = 0.0, 0
    while passed_s < 30 * 86_400:
        passed_s += pause_s(changes, 60.0)
        changes += 1
    assert 150 < changes < 250
    assert pause_s(10, 60.0) == 60.0


def reports(parts: Control) -> SideReports:
    """Return what makes reports, of a server that has counted nothing else."""
    return SideReports(parts.companions, Merger(Totals({}, {})))


def test_going_back_ends_it(parts: Control) -> None:
    """Its arms would keep the version that is left in use; both are one transaction."""
    before = parts.state.endpoint("e")
    assert before is not None
    parts.store.put(msgspec.structs.replace(before, version=2), before, 60.0)
    parts.serve(variant("m:2"), number=4)
    plan = ExperimentPlan(("2", "1"), (), "paid", 1_000)
    side = asyncio.run(parts.companions.experiment("e", plan, "alice", force=False))
    # Nobody serves here, so that it is not waited for long.
    parts.reconciler.settings = Settings(control=ControlSettings(deploy_timeout_s=0.01))
    with pytest.raises(SalverError):
        asyncio.run(parts.rollouts.rollback("e", "bob", "wrong", force=False))
    restored = parts.state.endpoint("e")
    assert restored is not None
    assert restored.version == 1
    assert parts.sides.active() == {}
    ended = parts.sides.newest("e", "experiment")
    assert (ended.number, ended.is_active) == (side.number, False)
    assert [event.action for event in parts.state.events(2)] == ["experiment stop", "rollback"]
