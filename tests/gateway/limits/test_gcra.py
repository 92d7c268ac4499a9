"""The arithmetic of rates, against what a rate means."""

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from salver.core.context import Rate
from salver.gateway.limits.gcra import Gcra, UseTable

SECOND_NS = 1_000_000_000

rates = st.builds(
    Rate,
    st.floats(0.01, 1e6, allow_nan=False),
    st.integers(1, 200),
)
pauses_ns = st.one_of(st.integers(0, 1000), st.integers(0, 3 * SECOND_NS))


@given(rates, st.lists(st.tuples(pauses_ns, st.integers(1, 300)), max_size=40), st.integers(1, 4))
def test_no_window_admits_more_than_burst_and_rate(
    rate: Rate, asked: list[tuple[int, int]], share: int
) -> None:
    """Between any two moments no more are admitted than the burst plus rate times the time."""
    rule, now_ns, free_ns = Gcra(rate, share), SECOND_NS, 0
    burst = max(1, rate.burst // share)
    admitted: list[tuple[int, int]] = []
    for pause_ns, wanted in asked:
        now_ns += pause_ns
        count = min(wanted, rule.room(free_ns, now_ns))
        if count:
            free_ns = rule.taken(free_ns, now_ns, count)
            admitted.append((now_ns, count))
    for index, (begin_ns, _) in enumerate(admitted):
        total = 0
        for end_ns, count in admitted[index:]:
            total += count
            allowed = Fraction(rate.per_s) / share * Fraction(end_ns - begin_ns, SECOND_NS)
            assert total <= burst + math.floor(allowed)


@given(rates, st.lists(st.tuples(pauses_ns, st.integers(1, 300)), max_size=20))
def test_a_refused_caller_is_told_the_very_moment(rate: Rate, asked: list[tuple[int, int]]) -> None:
    """After the wait that was named the next request is admitted, a nanosecond earlier it is not.

    Who need not wait is admitted at once.
    """
    rule, now_ns, free_ns = Gcra(rate), SECOND_NS, 0
    for pause_ns, wanted in asked:
        now_ns += pause_ns
        count = min(wanted, rule.room(free_ns, now_ns))
        free_ns = rule.taken(free_ns, now_ns, count) if count else free_ns
        wait_ns = rule.wait_ns(free_ns, now_ns)
        assert rule.room(free_ns, now_ns + wait_ns) >= 1
        if wait_ns:
            assert rule.room(free_ns, now_ns + wait_ns - 1) == 0


@given(rates, st.integers(1, 50), st.integers(0, 10 * SECOND_NS))
def test_many_at_once_are_as_many_one_by_one(rate: Rate, wanted: int, pause_ns: int) -> None:
    """A group is admitted as far as its members would be, and uses up the same."""
    rule, now_ns = Gcra(rate), SECOND_NS
    free_ns = rule.taken(0, now_ns, min(rate.burst, 3))
    now_ns += pause_ns
    together = min(wanted, rule.room(free_ns, now_ns))
    one_by_one, used_ns = 0, free_ns
    for _ in range(wanted):
        if rule.room(used_ns, now_ns):
            used_ns = rule.taken(used_ns, now_ns, 1)
            one_by_one += 1
    assert together == one_by_one
    if together:
        assert rule.taken(free_ns, now_ns, together) == used_ns


def test_the_whole_burst_comes_back() -> None:
    """Who has asked for nothing long enough has the whole burst again, and not more."""
    rule = Gcra(Rate(10.0, 5))
    free_ns = rule.taken(0, SECOND_NS, 5)
    assert rule.room(free_ns, SECOND_NS) == 0
    assert rule.room(free_ns, 2 * SECOND_NS) == 5
    assert rule.room(free_ns, 100 * SECOND_NS) == 5


def test_a_smaller_rate_does_not_lock_out_for_what_the_larger_one_allowed() -> None:
    """After a change of the rate nobody waits longer than the new burst takes to come back."""
    free_ns = Gcra(Rate(0.1, 1000)).taken(0, SECOND_NS, 1000)
    rule = Gcra(Rate(10.0, 5))
    assert rule.wait_ns(free_ns, SECOND_NS) == rule.interval_ns


def test_rounding_never_grants_more() -> None:
    """A rate whose interval is no whole number of nanoseconds is not exceeded either."""
    rule, free_ns, total = Gcra(Rate(600_000.0, 1000)), 0, 0
    for step in range(1001):
        now_ns = SECOND_NS + step * 1_000_000
        count = rule.room(free_ns, now_ns)
        free_ns = rule.taken(free_ns, now_ns, count)
        total += count
    assert 600_000 <= total <= 601_000


def test_the_table_forgets_who_asked_longest_ago() -> None:
    """However many callers come, the table holds the last ones and no more."""
    table = UseTable(3)
    for number in range(1000):
        table.put("regular", number)
        table.put(number, number)
        assert len(table) <= 3
    assert table.get("regular") == 999
    assert table.get(999) == 999
    assert table.get(5) == 0
