"""Experiments: narrower intervals from the pre-period, and a split that follows success."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.errors import InvalidRequest
from salver.rollout.betting import Counts, Sample, bound, estimate
from salver.rollout.experiment import adjusted, thompson_split
from salver.rollout.tally import Floats

SEGMENTS = 400
EFFECT = 0.3


def values(rng: np.random.Generator, effect: float) -> tuple[Sample, Floats, Floats]:
    """Return an experiment whose callers have habits, and what they did before it."""
    habits = rng.normal(5.0, 2.0, SEGMENTS)
    n = rng.poisson(20, SEGMENTS).astype(np.float64)
    before_n = np.full(SEGMENTS, 30.0)
    before = habits * before_n + rng.normal(0.0, np.sqrt(before_n))
    canary = np.arange(SEGMENTS) < SEGMENTS // 2
    sums = n * (habits + effect * canary) + rng.normal(0.0, np.sqrt(n))
    counts = Counts(0.5, n * canary, sums * canary, n * ~canary, sums * ~canary)
    return Sample((counts,), events=False, scale=2.2), before_n, before


def test_the_pre_period_narrows_the_interval_around_the_truth() -> None:
    """The adjusted interval is less than half as wide, and holds the effect."""
    plain, before_n, before = values(np.random.default_rng(2), EFFECT)
    better = adjusted(plain, before_n, before)
    widths = [bound(each, -1, 0.025) - bound(each, 1, 0.025) for each in (plain, better)]
    assert widths[1] < widths[0] / 2
    assert bound(better, 1, 0.025) < EFFECT < bound(better, -1, 0.025)
    assert estimate(better) == pytest.approx(EFFECT, abs=0.15)


def test_the_adjusted_interval_is_as_valid() -> None:
    """Without an effect the adjusted interval misses 0 in no more of 60 experiments than it may."""
    missed = 0
    for run in range(60):
        sample, before_n, before = values(np.random.default_rng((3, run)), 0.0)
        better = adjusted(sample, before_n, before)
        missed += not bound(better, 1, 0.05) <= 0.0 <= bound(better, -1, 0.05)
    assert missed / 60 <= 0.1 + 3 * (0.1 * 0.9 / 60) ** 0.5


def test_a_pre_period_that_says_nothing_changes_nothing() -> None:
    """Without pre-period counts the sample stays as it is, and a ratio is refused."""
    sample, _, _ = values(np.random.default_rng(2), EFFECT)
    empty = np.zeros(SEGMENTS)
    assert adjusted(sample, empty, empty) is sample
    with pytest.raises(InvalidRequest, match="difference"):
        adjusted(msgspec.structs.replace(sample, ratio=True), empty, empty)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=6),
    st.integers(0, 1500),
)
def test_a_split_is_whole_and_keeps_the_floor(counts: list[tuple[int, int]], floor: int) -> None:
    """Weights sum to 10,000 basis points and none is under the floor."""
    won = tuple(min(pair) for pair in counts)
    tried = tuple(max(pair) for pair in counts)
    split = thompson_split(won, tried, floor, np.random.default_rng(1))
    assert sum(split) == 10_000
    assert min(split) >= floor


def test_a_split_follows_success() -> None:
    """An arm that is surely better gets all but the floors; equal arms share about evenly."""
    rng = np.random.default_rng(1)
    assert thompson_split((300, 100), (1000, 1000), 500, rng) == (9500, 500)
    even = thompson_split((100, 100), (1000, 1000), 500, rng)
    assert 4500 <= even[0] <= 5500


@pytest.mark.parametrize(
    ("won", "tried", "floor"),
    [((2,), (1,), 0), ((-1,), (1,), 0), ((1, 1), (1,), 0), ((), (), 0), ((1, 1), (2, 2), 5001)],
)
def test_counts_that_cannot_be_are_refused(
    won: tuple[int, ...], tried: tuple[int, ...], floor: int
) -> None:
    """More successes than trials, arms that do not match, floors that do not fit."""
    with pytest.raises(InvalidRequest):
        thompson_split(won, tried, floor, np.random.default_rng(1))
