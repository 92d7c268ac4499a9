"""What control wants and counts survives it."""

import pytest

from salver.core.clock import ManualClock
from salver.core.errors import EndpointNotFound
from salver.observe.merge import Totals
from salver.registry.database import Database
from salver.registry.records import EndpointSpec
from salver.registry.state import StateStore
from salver.wire.messages import HistogramSample, Sample, Snapshot


@pytest.fixture
def state(database: Database) -> StateStore:
    """Give an empty store."""
    return StateStore(database, ManualClock())


def test_endpoints_are_replaced_with_a_newer_generation(state: StateStore) -> None:
    """Putting an endpoint again replaces it and raises its generation."""
    first = state.put_endpoint(EndpointSpec("churn", "churn", 1))
    second = state.put_endpoint(EndpointSpec("churn", "churn", 2))
    assert second.generation > first.generation
    assert state.endpoints() == [second]
    assert state.endpoint("churn") == second
    assert state.delete_endpoint("churn") == second
    assert state.endpoints() == []
    assert state.endpoint("churn") is None
    with pytest.raises(EndpointNotFound):
        state.delete_endpoint("churn")


def test_plan_numbers_only_rise(state: StateStore) -> None:
    """Every number is larger than the one before."""
    assert state.plan_number() == 0
    numbers = [state.next_plan_number() for _ in range(5)]
    assert numbers == sorted(set(numbers))
    assert state.plan_number() == numbers[-1]


def test_telemetry_comes_back_as_it_was(state: StateStore) -> None:
    """Retired totals and live snapshots are replaced together."""
    key = ("salver_batches_total", ("a:1",))
    histogram = ("salver_run_seconds", ("t", "e", "v", "0"))
    snapshot = Snapshot(
        3,
        1,
        1,
        "ready",
        5,
        (),
        (Sample(*key, 2.0),),
        (),
        (HistogramSample(*histogram, (1, 2), 3.0),),
    )
    totals = Totals({key: 7.0}, {histogram: ((4, 5), 6.0)})
    for _ in range(2):
        state.save_telemetry(totals, {"abc": snapshot})
    assert state.load_telemetry() == (totals, {"abc": snapshot})
    state.save_telemetry(Totals({}, {}), {})
    assert state.load_telemetry() == (Totals({}, {}), {})


def test_retired_totals_stay_as_they_are_stored(state: StateStore) -> None:
    """None in their place replaces the live snapshots only, and the next totals replace them."""
    totals = Totals({("a_total", ("x",)): 7.0}, {("b_seconds", ()): ((4, 5), 6.0)})
    first, second = (Snapshot(number, 1, 1, "ready", 5, (), (), (), ()) for number in (1, 2))
    state.save_telemetry(totals, {"abc": first})
    state.save_telemetry(None, {"def": second})
    assert state.load_telemetry() == (totals, {"def": second})
    state.save_telemetry(None, {})
    assert state.load_telemetry() == (totals, {})
    totals = Totals({("a_total", ("x",)): 8.0}, {})
    state.save_telemetry(totals, {})
    assert state.load_telemetry() == (totals, {})


def test_events_are_kept_newest_first(state: StateStore) -> None:
    """The audit log tells who did what, when."""
    for index in range(3):
        state.record("alice", "push", f"churn:{index}", {"digest": str(index)})
    events = state.events(2)
    assert [event.subject for event in events] == ["churn:2", "churn:1"]
    assert events[0].details == {"digest": "2"}


def test_the_oldest_events_are_forgotten_some_at_a_time(
    database: Database,
) -> None:
    """A line of a clock that was ahead does not hide the older ones; other tenants keep theirs."""
    clock = ManualClock()
    state, other = StateStore(database, clock), StateStore(database, clock, "other")
    other.record("alice", "push", "theirs", {})
    clock.advance(100)
    state.record("alice", "push", "ahead", {})
    clock.advance(-100)
    for number in range(5):
        state.record("alice", "push", f"old:{number}", {})
    clock.advance(50)
    before_unix_ms = clock.unix_ns() // 1_000_000
    state.record("alice", "push", "young", {})
    assert [state.forget_events(before_unix_ms, 3) for _ in range(4)] == [2, 2, 1, 0]
    assert [event.subject for event in state.events()] == ["young", "ahead"]
    assert [event.subject for event in other.events()] == ["theirs"]
