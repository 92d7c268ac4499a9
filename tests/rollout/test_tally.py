"""What gateways count, and how it travels."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salver.core.errors import InvalidRequest, InvalidSettings, WireError
from salver.rollout.metrics.latency import quantile
from salver.rollout.tally import (
    ERRORS,
    KEYED,
    MAX_COLUMNS,
    POINTS,
    REFUSED,
    REMEMBERED,
    REQUESTS,
    SEGMENTS,
    Layout,
    Packed,
    Tally,
    answered,
    pack,
    ran,
    segment_of,
    unpack,
)
from tests.rollout.tables import LAYOUT


def test_every_request_counts_in_the_segment_that_routed_it() -> None:
    """Answers, failures, classes, scores and feedback land in their columns of one row."""
    tally = Tally(LAYOUT)
    tally.answered(7, 0.02)
    tally.answered(7, 0.06)
    tally.failed(7)
    tally.predicted(7, 1)
    tally.predicted(7, 99)
    tally.scored(7, 0.3)
    tally.scored(7, math.nan)
    tally.rated(7, 0, 3.0)
    rows = tally.table().rows
    assert rows[7, REQUESTS] == 3
    assert rows[7, ERRORS] == 1
    assert rows[7, LAYOUT.slower_than(0)].sum() == 1
    assert list(rows[7, LAYOUT.first_label : LAYOUT.first_score]) == [0, 1, 1]
    assert list(rows[7, LAYOUT.first_score : LAYOUT.first_feedback]) == [0, 1, 0, 1]
    assert list(rows[7, LAYOUT.first_feedback :]) == [1, 3, 9]
    assert not np.delete(rows, 7, axis=0).any()


def test_what_ran_and_what_was_answered() -> None:
    """All that chance gave is counted; memory is not asked, and refused ones are not answered."""
    tally = Tally(LAYOUT)
    tally.answered(7, 0.02)
    tally.failed(7)
    tally.refused(7)
    tally.remembered(7)
    tally.remembered(7, keyed=False)
    rows = tally.table().rows
    assert [rows[7, column] for column in (REQUESTS, ERRORS, REFUSED, REMEMBERED, KEYED)] == [
        5, 1, 1, 2, 4,
    ]  # fmt: skip
    assert (ran(rows)[7], answered(rows)[7]) == (3, 1)
    assert not rows[7, LAYOUT.slower_than(0)[0] :].any()


@given(
    st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(1e-6, 100.0), max_size=40),
)
def test_slow_requests_are_those_above_the_threshold(
    thresholds: list[float], latencies: list[float]
) -> None:
    """Whatever the order of the thresholds, each metric's count is that of a plain comparison."""
    layout = Layout(tuple(map(str, thresholds)), tuple(thresholds))
    tally = Tally(layout)
    for latency in latencies:
        tally.answered(0, latency)
    rows = tally.table().rows
    for place, threshold in enumerate(thresholds):
        expected = sum(latency > threshold for latency in latencies)
        assert rows[0, layout.slower_than(place)].sum() == expected


@given(st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=200), st.floats(0.0, 1.0))
@example([0.005, 0.006], 0.0)
@example([0.005, 0.006], 1.0)
def test_a_quantile_is_right_within_a_bin(latencies: list[float], share: float) -> None:
    """Bins give the quantile within the two neighbours of its rank, and 5 %."""
    tally = Tally(Layout())
    for latency in latencies:
        tally.answered(0, latency)
    found = quantile(tally.table().bins, share)
    ordered = np.sort(latencies)
    rank = share * len(ordered)
    low = ordered[max(math.ceil(rank) - 1, 0)]
    high = ordered[min(math.floor(rank), len(ordered) - 1)]
    assert min(low, high) / 1.051 <= found <= max(low, high) * 1.051


def test_extreme_latencies_stay_in_the_table() -> None:
    """Nothing that a clock may say leaves the bins or raises."""
    tally = Tally(LAYOUT)
    for latency in (0.0, -1.0, 1e-300, 1e300, math.inf):
        tally.answered(0, latency) if math.isfinite(latency) else tally.answered(0, 1e9)
    bins = tally.table().bins
    assert bins.sum() == 5
    assert bins[0] == 3


def test_points_of_the_ring_have_equal_segments() -> None:
    """Each segment has as many points as every other."""
    sizes = np.bincount([segment_of(point) for point in range(POINTS)])
    assert len(sizes) == SEGMENTS
    assert set(sizes) == {POINTS // SEGMENTS}


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (Layout(("p95",), ()), "one threshold"),
        (Layout(("p95",), (0.0,)), "positive"),
        (Layout(("p95",), (math.nan,)), "positive"),
        (Layout(score_edges=(0.5, 0.5)), "ascend"),
        (Layout(score_edges=(0.5, math.inf)), "finite"),
        (Layout(labels=("a", "a")), "repeated"),
        (Layout(labels=tuple(map(str, range(MAX_COLUMNS)))), "more than"),
    ],
)
def test_columns_that_cannot_be_counted_are_refused(layout: Layout, reason: str) -> None:
    """The message says what is wrong with them."""
    with pytest.raises(InvalidSettings, match=reason):
        layout.validate()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_feedback_that_is_no_number_is_refused(value: float) -> None:
    """It would spoil the sums of everybody."""
    tally = Tally(LAYOUT)
    with pytest.raises(InvalidRequest, match="finite"):
        tally.rated(0, 0, value)
    assert not tally.table().rows.any()


@given(st.dictionaries(st.integers(0, SEGMENTS - 1), st.integers(1, 5), max_size=30))
def test_a_table_survives_the_way(counts: dict[int, int]) -> None:
    """What is unpacked is what was packed, and an empty table is small."""
    tally = Tally(LAYOUT)
    for segment, count in counts.items():
        for _ in range(count):
            tally.answered(segment, 0.03)
            tally.rated(segment, 0, 0.1 * count)
    packed = pack(tally.table())
    again = unpack(packed)
    assert np.array_equal(again.rows, tally.table().rows)
    assert np.array_equal(again.bins, tally.table().bins)
    if not counts:
        assert len(packed.rows) + len(packed.bins) < 64


def _rows(width: int, places: list[int], values: list[float]) -> bytes:
    raw = np.array(places, "<u2").tobytes() + np.array(values * width, "<f8").tobytes()
    return zlib.compress(raw)


EMPTY = zlib.compress(b"")


@pytest.mark.parametrize(
    "packed",
    [
        Packed(0, EMPTY, EMPTY),
        Packed(MAX_COLUMNS + 1, EMPTY, EMPTY),
        Packed(2, b"no zlib", EMPTY),
        Packed(2, zlib.compress(b"x" * 17), EMPTY),
        Packed(2, zlib.compress(bytes(100 * 2**20)), EMPTY),
        Packed(2, _rows(2, [1, 1], [1.0, 1.0]), EMPTY),
        Packed(2, _rows(2, [5, 4], [1.0, 1.0]), EMPTY),
        Packed(2, _rows(2, [SEGMENTS], [1.0]), EMPTY),
        Packed(2, _rows(2, [1], [math.nan]), EMPTY),
        Packed(2, _rows(2, [1], [1.0])[:-1], EMPTY),
        Packed(2, EMPTY, _rows(1, [400], [1.0])),
    ],
)
def test_evidence_that_pack_did_not_make_is_refused(packed: Packed) -> None:
    """Wrong sizes, rows twice or out of range, bombs, cut ends and values that are no numbers."""
    with pytest.raises(WireError):
        unpack(packed)
