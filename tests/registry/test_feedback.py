"""Outcomes count once each, and their sums are theirs, on both databases."""

import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from salver.core.errors import InvalidRequest
from salver.registry.database import Database
from salver.registry.feedback import (
    MAX_ANSWER_METRICS,
    MAX_METRICS,
    FeedbackStore,
    Outcome,
    Sums,
)


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


def test_what_a_call_costs_does_not_grow_with_its_places(
    database: Database, store: FeedbackStore
) -> None:
    """Callers with routing keys are at thousands of places; their sums take one statement."""
    statements: list[str] = []

    def note(_c: object, _u: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    for first in (0, 200):
        reports = [outcome(first + i, 2.0, place=i) for i in range(200)]
        event.listen(database.engine, "before_cursor_execute", note)
        store.take("e", reports, 5)
        event.remove(database.engine, "before_cursor_execute", note)
    assert len([one for one in statements if "INTO feedback_sums" in one]) == 2
    assert len(statements) < 20
    found = store.sums("e", "conversion", [7])
    assert len(found) == 200
    assert {(one.count, one.total, one.squares) for one in found} == {(2, 4.0, 8.0)}


def test_single_outcomes_are_forgotten_and_their_sums_stay(store: FeedbackStore) -> None:
    """An answer that old cannot be reported again, so nothing can count twice."""
    store.take("e", [outcome(1), outcome(2, answered_unix_ms=9_000)], 5)
    assert store.forget(5_000, 10) == 1
    assert store.count("e") == {"conversion": 2}
    assert store.take("e", [outcome(2)], 6) == {0: 1.0}


def test_what_is_forgotten_is_bounded(database: Database, store: FeedbackStore) -> None:
    """Of outcomes and of sums, of whichever metric and tenant; what is wanted is kept."""
    other = FeedbackStore(database, "other")
    for one in (store, other):
        for metric in ("a", "b", "kept"):
            one.take("e", [outcome(i, place=i, metric=metric) for i in range(4)], 5)
    assert [store.forget(5_000, 5) for _ in range(4)] == [5, 5, 2, 0]
    kept = {("e", "kept")}
    assert [store.forget_sums(6, 3, kept) for _ in range(4)] == [3, 3, 2, 0]
    assert store.count("e") == {"kept": 4}
    assert other.count("e") == {"a": 4, "b": 4, "kept": 4}
    assert other.forget(5_000, 100) == 12


def test_forgetting_reads_no_more_than_what_is_old(tmp_path: Path) -> None:
    """However many outcomes are not, SQLite finds those that are by their times."""
    database, statements = Database(f"sqlite:///{tmp_path / 'salver.db'}"), list[str]()
    database.provision()

    def note(_c: object, _u: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    FeedbackStore(database).forget(5_000, 10)
    with database.read() as connection:
        delete = statements[-1].replace("?", "1")
        plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {delete}").all())
    assert "ix_feedback_answered_unix_ms" in plan
    assert "TEMP B-TREE" not in plan
    database.close()


def refused(store: FeedbackStore, outcomes: Sequence[Outcome]) -> dict[int, str]:
    """Report, and return what is wrong with those that are refused."""
    before = store.take("e", list(outcomes), 5)
    return {i: one.message for i, one in before.items() if isinstance(one, InvalidRequest)}


def test_an_answer_has_few_metrics(store: FeedbackStore) -> None:
    """In one call or in several; those it has may be repeated, and other answers have their own."""
    many = [outcome(1, metric=f"m{i}") for i in range(MAX_ANSWER_METRICS + 2)]
    assert refused(store, many[:5]) == {}
    found = refused(store, many)
    assert list(found) == [MAX_ANSWER_METRICS, MAX_ANSWER_METRICS + 1]
    assert all("8 metrics were reported of this answer" in text for text in found.values())
    assert refused(store, many[:MAX_ANSWER_METRICS]) == {}
    assert refused(store, [outcome(2, metric="m9")]) == {}
    assert sum(store.count("e").values()) == MAX_ANSWER_METRICS + 1


def test_what_is_compared_is_always_taken(store: FeedbackStore) -> None:
    """Of an answer with all other metrics that it may have, and it takes the place of none."""
    many = [outcome(1, metric=f"m{i}") for i in range(MAX_ANSWER_METRICS + 1)]
    wanted = frozenset({"conversion"})
    others = [outcome(2, metric=f"m{i}") for i in range(MAX_ANSWER_METRICS)]
    for call in (many[:-1], [outcome(1)], [outcome(2), *others]):
        assert store.take("e", call, 5, wanted) == {}
    assert list(store.take("e", many[-1:], 5, wanted)) == [0]


def test_an_endpoint_has_a_bounded_number_of_metrics(store: FeedbackStore) -> None:
    """Whoever makes up names gets no further; names that are there, and other endpoints, do."""
    many = [outcome(i, metric=f"m{i:02}") for i in range(MAX_METRICS + 1)]
    for start in range(0, MAX_METRICS, 40):
        found = refused(store, many[start : start + 40])
    assert list(found) == [MAX_METRICS % 40]
    assert "endpoint 'e' has 64 metrics" in found[MAX_METRICS % 40]
    assert "'m64' is not counted" in found[MAX_METRICS % 40]
    assert refused(store, [outcome(900, metric="m63"), outcome(900, metric="x")]).keys() == {1}
    assert len(store.count("e")) == MAX_METRICS
    assert store.take("other", [outcome(1, metric="x")], 5) == {}


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
