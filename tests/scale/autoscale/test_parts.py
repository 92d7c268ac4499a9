"""The pieces that autoscaling is made of, each by itself."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.scale.autoscale.decider import Decider, View
from salver.scale.autoscale.demand import enough, needed, value
from salver.scale.autoscale.history import History, Piece, Usage
from salver.scale.autoscale.policy import Pace, Policy
from salver.scale.autoscale.room import Ask, share
from salver.scale.autoscale.telemetry import Report, Telemetry

S_NS = 1_000_000_000


def test_an_average_takes_pieces_for_the_part_that_lies_in_the_window() -> None:
    """Half of a piece counts half, what is outside not at all, and two processes add up."""
    history = History(0)
    history.add(Piece(0, 2 * S_NS, Usage(8.0, 20.0)))
    history.add(Piece(2 * S_NS, 4 * S_NS, Usage(2.0, 4.0)))
    history.add(Piece(1 * S_NS, 4 * S_NS, Usage(3.0, 3.0)))
    mean = history.mean(1 * S_NS, 4 * S_NS, least_s=1.0)
    assert mean.open_s == pytest.approx((4 + 2 + 3) / 3)
    assert mean.asked == pytest.approx((10 + 4 + 3) / 3)


def test_a_moment_says_little() -> None:
    """History that is shorter than the least counts as if nothing had been before."""
    history = History(0)
    history.add(Piece(0, S_NS, Usage(6.0)))
    assert history.mean(0, S_NS, least_s=6.0).open_s == pytest.approx(1.0)
    assert History(0).mean(0, 0, least_s=0.0) == Usage()


@given(
    cuts=st.lists(st.integers(0, 10_000), min_size=2, max_size=20, unique=True),
    amount=st.floats(0, 1e6),
)
def test_cutting_a_stretch_into_pieces_changes_no_average(cuts: list[int], amount: float) -> None:
    """However often reports come, an average over all of them is the same."""
    whole, parts = History(0), History(0)
    cuts = sorted(cuts)
    first, last = cuts[0], cuts[-1]
    whole.add(Piece(first, last, Usage(amount)))
    for start, stop in itertools.pairwise(cuts):
        parts.add(Piece(start, stop, Usage(amount * (stop - start) / (last - first))))
    means = [history.mean(first, last, 0.0).open_s for history in (whole, parts)]
    assert means[0] == pytest.approx(means[1], rel=1e-6)


def report(number: int, at_s: float, open_s: float, incarnation: str = "a") -> Report:
    """Return a gateway's report of one variant."""
    return Report("g", incarnation, number, round(at_s * S_NS), {"m:1": Usage(open_s)})


def kept(telemetry: Telemetry, until_s: float) -> float:
    """Return all that endpoint ``e`` used."""
    history = telemetry.histories["e"]
    mean = history.mean(0, round(until_s * S_NS), 0.0)
    return mean.open_s * (until_s - history.began_ns / S_NS)


def test_counts_are_taken_as_what_they_grew_by() -> None:
    """Before a first report nothing is known; repeated and late ones, and falls, add nothing."""
    telemetry = Telemetry(100.0, 5.0)
    endpoint = {"e": ("m:1",)}
    steps = [
        (report(7, 1, 500.0), 0.0),
        (report(8, 2, 504.0), 4.0),
        (report(8, 2, 504.0), 4.0),
        (report(6, 2, 490.0), 4.0),
        (report(9, 3, 503.0), 4.0),
        (report(10, 4, math.nan), 4.0),
        (report(1, 5, 3.0, "b"), 4.0),
        (report(2, 6, 5.0, "b"), 6.0),
    ]
    telemetry.take([], endpoint, 0)
    for one, total in steps:
        telemetry.take([one], endpoint, one.arrival_ns)
        assert kept(telemetry, one.arrival_ns / S_NS) == pytest.approx(total)


def test_a_change_of_version_goes_on_with_the_same_history() -> None:
    """What the old version was asked counts for the endpoint, also after the new one took over."""
    telemetry = Telemetry(100.0, 5.0)

    def usage(old: float, new: float) -> dict[str, Usage]:
        return {"m:1": Usage(old), "m:2": Usage(new)}

    for number, counts in enumerate([usage(0, 0), usage(8, 0), usage(8, 5)], 1):
        variants = {"e": ("m:1",) if number < 3 else ("m:2",)}
        at_ns = number * S_NS
        telemetry.take([Report("g", "a", number, at_ns, counts)], variants, at_ns)
        if number == 1:
            telemetry.histories["e"].began_ns = 0
    assert kept(telemetry, 3.0) == pytest.approx(13)


def test_what_is_known_ends_with_the_slowest_gateway_that_still_reports() -> None:
    """One that is silent for too long is left out and named."""
    telemetry = Telemetry(100.0, 5.0)
    reports = [
        Report("g0", "a", 1, 10 * S_NS, {}),
        Report("g1", "a", 1, 8 * S_NS, {}),
    ]
    telemetry.take(reports, {}, 10 * S_NS)
    assert telemetry.known(11 * S_NS) == (8 * S_NS, "")
    assert telemetry.known(14 * S_NS) == (10 * S_NS, "no news of g1")
    assert telemetry.known(20 * S_NS) == (None, "no news of g0, g1")
    assert Telemetry(100.0, 5.0).known(0) == (None, "no gateway is connected")


def policy(metric: str, target: float) -> Policy:
    """Return a policy without bounds."""
    return Policy(1, 1000, metric, target, 0.0, Pace())


def test_what_each_measure_asks_for() -> None:
    """Open requests and rates are divided by the target; waiting asks for twice at most."""
    mean = Usage(open_s=21.0, asked=100.0, finished=90.0, run_s=1.0)
    assert needed(policy("concurrency", 7.0), mean, 1) == 3
    assert needed(policy("rate", 30.0), mean, 1) == 4
    assert value(policy("queue", 0.1), mean, 1) == pytest.approx(0.2)
    assert needed(policy("queue", 0.1), mean, 3) == 6
    assert needed(policy("queue", 0.001), mean, 3) == 6
    assert needed(policy("queue", 0.2), mean, 3) == 3


def test_fewer_take_some_slack() -> None:
    """At nearly the target of two, two stay; the queue gives one back, or half if nobody asks."""
    assert enough(policy("concurrency", 10.0), Usage(open_s=9.5), 2) == 2
    assert enough(policy("concurrency", 10.0), Usage(open_s=8.9), 2) == 1
    assert enough(policy("queue", 0.1), Usage(1.0, 100.0, 100.0, 0.5), 8) == 7
    assert enough(policy("queue", 0.1), Usage(10.0, 100.0, 100.0, 1.0), 8) == 8
    assert enough(policy("queue", 0.1), Usage(), 8) == 4


def test_requests_that_never_end_count_as_waiting() -> None:
    """Without a single answer more workers are asked for, unless each request may be running."""
    assert needed(policy("queue", 0.1), Usage(open_s=9.0), 2) == 4
    assert needed(policy("queue", 0.1), Usage(open_s=2.0), 2) == 2


@given(
    metric=st.sampled_from(["concurrency", "rate"]),
    seen=st.floats(0, 1e6),
    target=st.floats(0.01, 100),
)
def test_never_fewer_than_enough(metric: str, seen: float, target: float) -> None:
    """What one may go down to takes what is asked, and is never below what is needed."""
    mean = Usage(seen, seen, seen, 0.0)
    rule = policy(metric, target)
    assert enough(rule, mean, 1) >= needed(rule, mean, 1)
    assert needed(rule, mean, 1) * target >= seen * (1 - 1e-6) - 1e-6


def test_what_is_over_or_half_known_was_not_too_few() -> None:
    """Neither the first look after a restart nor the peak of a burst keeps workers for an hour."""
    rules = Policy(1, 8, "concurrency", 2.8, 1.0, Pace(stable_s=3.0, panic_s=1.0))
    rush = Usage(open_s=32.0, asked=20.0, finished=40.0, run_s=3.0)
    calm = Usage(open_s=0.3, asked=20.0, finished=20.0, run_s=0.2)
    decider = Decider()
    seen = decider.decide(rules, View(0, 3, rush, rush, "1 s of 3 s are known"), 3)
    assert seen.wanted == 8
    for second in range(1, 10):
        seen = decider.decide(rules, View(second * S_NS, 3, calm, calm), 3)
    assert seen.wanted == 1


def test_a_burst_that_is_over_counts_with_what_was_asked_in_it() -> None:
    """The long window has it still when the short one has not; fewer are enough for the rest."""
    rules = Policy(1, 8, "concurrency", 2.8, 1.0, Pace(stable_s=3.0, panic_s=1.0))
    burst = Usage(open_s=11.0, asked=500.0, finished=500.0, run_s=3.0)
    calm = Usage(open_s=0.3, asked=20.0, finished=20.0, run_s=0.2)
    decider = Decider()
    assert decider.decide(rules, View(0, 3, burst, calm), 3).wanted == 4
    for second in range(1, 10):
        seen = decider.decide(rules, View(second * S_NS, 3, calm, calm), 3)
    assert seen.wanted == 1


def test_what_was_too_few_for_what_is_asked_now_is_remembered() -> None:
    """It took more, and as much is asked still, so that fewer are not tried again."""
    rules = Policy(1, 8, "concurrency", 2.8, 1.0, Pace(stable_s=3.0, panic_s=1.0))
    rush = Usage(open_s=32.0, asked=20.0, finished=5.0, run_s=3.0)
    calm = Usage(open_s=0.3, asked=20.0, finished=20.0, run_s=0.2)
    decider = Decider()
    assert decider.decide(rules, View(0, 3, rush, rush), 3).wanted == 8
    for second in range(1, 10):
        seen = decider.decide(rules, View(second * S_NS, 8, calm, calm), 8)
    assert (seen.wanted, seen.reason.partition("; ")[2]) == (6, "3 were too few")


def ask(name: str, least: int, current: int, wanted: int) -> Ask:
    """Return what an endpoint with workers of its own wants."""
    return Ask(least, current, wanted, lambda count: [f"{name}-{i}" for i in range(count)])


def test_the_least_is_given_whatever_the_machine_takes() -> None:
    """Over the limit nobody grows, and nobody loses what was promised."""
    asks = {"a": ask("a", 3, 3, 9), "b": ask("b", 2, 2, 2)}
    assert share(asks, ["fixed"], 4) == {"a": 3, "b": 2}


def test_growth_takes_nothing_from_others_and_goes_in_turns() -> None:
    """What an endpoint has and wants it keeps; what is left is shared evenly."""
    asks = {"a": ask("a", 1, 1, 9), "b": ask("b", 1, 5, 6), "c": ask("c", 1, 1, 9)}
    assert share(asks, [], 11) == {"a": 3, "b": 6, "c": 2}
    assert share(asks, [], 7) == {"a": 1, "b": 5, "c": 1}


def test_shared_workers_count_once() -> None:
    """An endpoint that uses workers which are there anyway needs no room."""
    shared = Ask(1, 1, 4, lambda count: [f"shared-{i}" for i in range(count)])
    asks = {"a": shared, "b": shared._replace(wanted=3)}
    assert share(asks, [f"shared-{i}" for i in range(3)], 3) == {"a": 3, "b": 3}
    assert share(asks, [], 4) == {"a": 4, "b": 3}


counts = st.integers(1, 12)


@given(
    wants=st.dictionaries(st.sampled_from("abcd"), st.tuples(counts, counts, counts)),
    fixed=st.integers(0, 5),
    most=st.integers(0, 40),
)
def test_a_share_is_between_the_least_and_what_is_wanted(
    wants: dict[str, tuple[int, int, int]], fixed: int, most: int
) -> None:
    """And all together fit, unless what was promised alone does not."""
    asks = {
        name: ask(name, least, current, max(least, wanted))
        for name, (least, current, wanted) in wants.items()
    }
    others = [f"fixed-{i}" for i in range(fixed)]
    given_out = share(asks, others, most)
    for name, one in asks.items():
        assert one.least <= given_out[name] <= one.wanted
    total = fixed + sum(given_out.values())
    assert total <= max(most, fixed + sum(one.least for one in asks.values()))
    if total < most:
        assert given_out == {name: one.wanted for name, one in asks.items()}
