"""A split that follows success: whole, never below its floor, and not led astray by the hour."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.errors import InvalidRequest
from salver.core.routing import FULL
from salver.rollout.thompson import Success, known, thompson_split


def share(won: float, tried: float) -> Success:
    """Return outcomes of yes and no."""
    return Success(tried, won, won)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=6),
    st.integers(0, 1500),
)
def test_a_split_is_whole_and_keeps_the_floor(counts: list[tuple[int, int]], floor: int) -> None:
    """Weights sum to 10,000 basis points and none is under the floor."""
    arms = [share(min(pair), max(pair)) for pair in counts]
    split = thompson_split(arms, floor, np.random.default_rng(1)).weights
    assert sum(split) == FULL
    assert min(split) >= floor


def test_a_split_follows_success() -> None:
    """An arm that is surely better gets all but the floors; equal arms share about evenly."""
    rng = np.random.default_rng(1)
    assert thompson_split([share(300, 1000), share(100, 1000)], 500, rng).weights == (9500, 500)
    even = thompson_split([share(100, 1000), share(100, 1000)], 500, rng)
    assert 4000 <= even.weights[0] <= 6000
    assert sum(even.best) == pytest.approx(1.0)


def test_less_may_be_better_and_outcomes_of_any_size() -> None:
    """Means of seconds or money are compared as they are, in the direction that is wanted."""
    rng = np.random.default_rng(1)
    dear, cheap = Success(100.0, 1000.0, 10_900.0), Success(100.0, 500.0, 2_900.0)
    assert thompson_split([dear, cheap], 1_000, rng).weights == (9_000, 1_000)
    less = thompson_split([dear, cheap], 1_000, rng, prefers_less=True)
    assert less.weights == (1_000, 9_000)
    unknown = thompson_split([dear, Success(1.0, 5.0, 25.0)], 1_000, rng)
    assert 4_000 <= unknown.weights[0] <= 6_000


def test_an_arm_is_not_better_for_having_had_more_of_a_good_hour() -> None:
    """Equal arms whose weights moved with the time of day are known to be equal."""
    blocks = [
        ({"a": 9_000, "b": 1_000}, {"a": share(450, 900), "b": share(50, 100)}),
        ({"a": 1_000, "b": 9_000}, {"a": share(10, 100), "b": share(90, 900)}),
    ]
    a, b = known(blocks, ("a", "b"))
    assert a == b
    assert a.mean == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("counts", "floor"), [(-1.0, 0), (float("nan"), 0), (float("inf"), 0), (1.0, 5_001)]
)
def test_counts_that_cannot_be_are_refused(counts: float, floor: int) -> None:
    """Numbers that are none, and floors that do not fit."""
    with pytest.raises(InvalidRequest):
        thompson_split([Success(counts), Success(1.0)], floor, np.random.default_rng(1))
    with pytest.raises(InvalidRequest):
        thompson_split([], 0, np.random.default_rng(1))
