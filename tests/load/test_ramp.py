"""The search for the highest rate."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from salver.bench.figures import Limit
from salver.bench.ramp import LOWEST_PER_S, RampSettings, Search


def run(
    search: Search, met: Callable[[float, int], bool], limited_from: float = 1e18
) -> list[float]:
    """Carry a search out against a judge of rate and step number; returns the rates tried."""
    tried: list[float] = []
    while (rate := search.next_rate()) is not None:
        tried.append(rate)
        good = met(rate, len(tried))
        search.tell(met=good, generator_limited=rate >= limited_from)
    return tried


@given(st.floats(LOWEST_PER_S, 1e6), st.floats(LOWEST_PER_S, 1e5), st.floats(0.01, 0.5))
def test_a_sharp_limit_is_found_within_the_precision(
    limit: float, start: float, precision: float
) -> None:
    """The answer was met, is at most the limit, and the next step above is closer than asked."""
    search = Search(RampSettings(start, 1e9, precision=precision, max_steps=200))
    tried = run(search, lambda rate, _: rate <= limit)
    capacity = search.capacity
    assert capacity.limit is Limit.SERVER
    assert capacity.rate_per_s in tried
    assert capacity.rate_per_s <= limit
    assert capacity.first_unmet_per_s is not None
    assert limit < capacity.first_unmet_per_s <= capacity.rate_per_s * (1 + precision)


@given(st.lists(st.booleans(), min_size=60, max_size=60), st.integers(1, 40))
def test_the_search_always_ends(verdicts: list[bool], most: int) -> None:
    """Whatever the verdicts: no more steps than allowed, and no rate over the cap."""
    search = Search(RampSettings(50, 5000, max_steps=most))
    tried = run(search, lambda _, step: verdicts[step - 1])
    assert len(tried) <= most
    assert all(LOWEST_PER_S <= rate <= 5000 for rate in tried)
    assert search.next_rate() is None


def test_one_bad_moment_is_tried_again() -> None:
    """A rate that fails once and then succeeds is no limit."""
    search = Search(RampSettings(100, 1e9))
    tried = run(search, lambda rate, step: rate <= 1000 and step != 2)
    assert tried[1:3] == [200, 200]
    assert 950 < search.capacity.rate_per_s <= 1000


def test_a_server_that_never_keeps_the_objective_has_no_capacity() -> None:
    """The search goes down to the lowest rate and then says so."""
    search = Search(RampSettings(100, 1e9))
    tried = run(search, lambda *_: False)
    assert tried[-1] == LOWEST_PER_S
    assert search.capacity.rate_per_s == 0
    assert search.capacity.limit is Limit.SERVER


def test_the_cap_the_generator_and_an_interruption_are_named() -> None:
    """A capacity that is only a lower bound says why."""
    search = Search(RampSettings(100, 300))
    assert run(search, lambda *_: True) == [100, 200, 300]
    assert (search.capacity.rate_per_s, search.capacity.limit) == (300, Limit.MAX_RATE)
    search = Search(RampSettings(100, 1e9))
    run(search, lambda rate, _: rate <= 1000, limited_from=1000)
    assert search.capacity.limit is Limit.GENERATOR
    search = Search(RampSettings(100, 1e9))
    search.tell(met=True)
    search.interrupt()
    assert search.next_rate() is None
    assert (search.capacity.rate_per_s, search.capacity.limit) == (100, Limit.INTERRUPTED)
