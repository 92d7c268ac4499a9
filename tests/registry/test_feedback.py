"""Outcomes count once each, and their sums are theirs, on both databases."""

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salver.registry.database import Database
from salver.registry.feedback import FeedbackStore, Outcome, Sums


def outcome(number: int, value: float = 1.0, **more: object) -> Outcome:
    """Return an outcome of an answer."""
    fields: dict[str, object] = {
        "version": 2,
        "weight_epoch": 7,
        "place": 12,
        "answered_unix_ms": 1_000,
        "metric": "conversion",
        **more,
    }
    return Outcome(request_id=f"{number:060x}", value=value, **fields)  # type: ignore[arg-type]


@pytest.fixture
def store(database: Database) -> FeedbackStore:
    """Give an empty store."""
    return FeedbackStore(database)


def test_an_outcome_counts_once(store: FeedbackStore) -> None:
    """In one call or in two; what was said first stays."""
    assert store.take("e", [outcome(1), outcome(2, 0.0), outcome(1, 3.0)], 5) == {2: 1.0}
    assert store.take("e", [outcome(1), outcome(2, 9.0), outcome(3)], 6) == {0: 1.0, 1: 0.0}
    assert store.sums("e", "conversion", [7]) == [Sums(2, 7, 12, 3, 2.0, 2.0)]
    assert store.count("e") == {"conversion": 3}


def test_arms_places_metrics_and_endpoints_are_apart(store: FeedbackStore) -> None:
    """Each has sums of its own."""
    store.take("e", [outcome(1, 2.0), outcome(2, version=1), outcome(3, place=13)], 5)
    store.take("e", [outcome(1, metric="revenue"), outcome(4, weight_epoch=8)], 5)
    store.take("other", [outcome(1)], 5)
    found = {
        (s.version, s.place): (s.count, s.total, s.squares)
        for s in store.sums("e", "conversion", [7])
    }
    assert found == {(2, 12): (1, 2.0, 4.0), (1, 12): (1, 1.0, 1.0), (2, 13): (1, 1.0, 1.0)}
    assert [s.weight_epoch for s in store.sums("e", "conversion", [8])] == [8]
    assert store.count("e") == {"conversion": 4, "revenue": 1}


def test_single_outcomes_are_forgotten_and_their_sums_stay(store: FeedbackStore) -> None:
    """An answer that old cannot be reported again, so nothing can count twice."""
    store.take("e", [outcome(1), outcome(2, answered_unix_ms=9_000)], 5)
    assert store.forget(5_000) == 1
    assert store.count("e") == {"conversion": 2}
    assert store.take("e", [outcome(2)], 6) == {0: 1.0}


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.0, 0.5, 1.0])), max_size=6),
        max_size=5,
    )
)
def test_sums_are_those_of_what_was_taken(
    database: Database, calls: list[list[tuple[int, float]]]
) -> None:
    """Whatever is sent in whatever portions."""
    store, expected = FeedbackStore(database, uuid.uuid4().hex), dict[int, float]()
    for call in calls:
        store.take("e", [outcome(number, value) for number, value in call], 5)
        for number, value in call:
            expected.setdefault(number, value)
    sums = store.sums("e", "conversion", [7])
    assert sum(s.count for s in sums) == len(expected)
    assert sum(s.total for s in sums) == pytest.approx(sum(expected.values()))
