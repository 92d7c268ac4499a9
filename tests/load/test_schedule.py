"""When requests are due."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.bench.figures import Arrivals
from salver.bench.schedule import MAX_REQUESTS, arrival_times
from salver.core.errors import InvalidSettings

RATES = st.floats(0.01, 20_000)
DURATIONS = st.floats(0.001, 2)
KINDS = st.sampled_from(list(Arrivals))
SEEDS = st.integers(0, 2**32)


@given(KINDS, RATES, DURATIONS, SEEDS)
def test_times_are_sorted_within_the_duration_and_reproducible(
    kind: Arrivals, rate: float, duration: float, seed: int
) -> None:
    """Times never go back, lie in [0, duration), and are the same for the same seed."""
    times = arrival_times(kind, rate, duration, seed)
    assert (np.diff(times) >= 0).all()
    assert all((times >= 0) & (times < round(duration * 1e9)))
    assert (arrival_times(kind, rate, duration, seed) == times).all()


@given(RATES, DURATIONS)
def test_constant_arrivals_have_equal_gaps(rate: float, duration: float) -> None:
    """The k-th request is due k / rate after the first, which is due at once."""
    times = arrival_times(Arrivals.CONSTANT, rate, duration, 0)
    assert times[0] == 0
    assert np.abs(times - np.arange(len(times)) * 1e9 / rate).max() <= 1
    assert abs(len(times) - rate * duration) <= 1


@given(RATES, DURATIONS, SEEDS)
def test_poisson_arrivals_come_at_the_rate(rate: float, duration: float, seed: int) -> None:
    """Their number is that of a Poisson process, within seven standard deviations."""
    expected = rate * duration
    count = len(arrival_times(Arrivals.POISSON, rate, duration, seed))
    assert abs(count - expected) <= 7 * expected**0.5 + 12


def test_poisson_gaps_are_exponential() -> None:
    """The mean of the gaps is their standard deviation, and another seed gives other gaps."""
    gaps = np.diff(arrival_times(Arrivals.POISSON, 1000, 50, 1))
    assert 0.95e6 < gaps.mean() < 1.05e6
    assert 0.95 < gaps.std() / gaps.mean() < 1.05
    other = np.diff(arrival_times(Arrivals.POISSON, 1000, 50, 2))
    assert not (gaps[:100] == other[:100]).any()


@pytest.mark.parametrize(
    ("rate", "duration"),
    [(0, 1), (-1, 1), (1, 0), (float("nan"), 1), (float("inf"), 1), (MAX_REQUESTS, 1.1)],
)
def test_what_cannot_be_kept_is_refused(rate: float, duration: float) -> None:
    """Rates and durations that are none, or need too much memory, are refused by name."""
    with pytest.raises(InvalidSettings):
        arrival_times(Arrivals.POISSON, rate, duration, 0)
