"""Replicas follow what is asked: fast up, slowly down, and to and fro never."""

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.scale.autoscale.policy import Policy
from tests.scale.autoscale.simulation import (
    PACE,
    Gateway,
    Simulation,
    by_queue,
    by_rate,
    concurrency,
)

POLICIES = [by_rate(7.0), concurrency(3.0), by_queue(0.05)]
IDS = ["rate", "concurrency", "queue"]


@pytest.mark.parametrize("policy", POLICIES, ids=IDS)
@pytest.mark.parametrize("rate", [0.5, 6.9, 7.0, 9.5, 18.0, 31.0, 61.0])
def test_steady_load_does_not_flap(policy: Policy, rate: float) -> None:
    """Under steady load the number settles within ten minutes and stays for the next forty."""
    noise = random.Random(1)
    simulation = Simulation(policy, lambda _: max(0.0, noise.gauss(rate, rate * 0.05)))
    simulation.run(600)
    settled = simulation.now_s
    simulation.run(2400)
    assert len(simulation.counts(settled)) == 1, simulation.counts()
    assert simulation.waiting <= rate


@pytest.mark.parametrize("policy", POLICIES, ids=IDS)
def test_a_burst_is_answered_within_the_panic_window(policy: Policy) -> None:
    """Twenty times the load brings more workers within six seconds, and panic."""
    simulation = Simulation(policy, lambda _: 2.0)
    simulation.run(300)
    assert simulation.wanted == 1
    began = simulation.now_s
    simulation.rate = lambda _: 40.0
    simulation.run(PACE.panic_s)
    assert simulation.wanted > 1
    assert any(decision.panics for when, decision in simulation.decisions if when > began)


@pytest.mark.parametrize("policy", [by_rate(7.0), concurrency(3.0)], ids=IDS[:2])
def test_panic_never_goes_down_and_ends_after_the_stable_window(policy: Policy) -> None:
    """While a burst is answered nothing shrinks; a minute after it panic is over."""
    simulation = Simulation(policy, lambda _: 2.0)
    simulation.run(120)
    simulation.rate = lambda _: 60.0
    simulation.run(8)
    simulation.rate = lambda _: 2.0
    peak, since = simulation.wanted, simulation.now_s
    assert peak > 2
    simulation.run(180)
    panicking = [d.wanted for when, d in simulation.decisions if when > since and d.panics]
    assert panicking == sorted(panicking)
    assert len(panicking) >= PACE.stable_s / 2 - 3
    assert not simulation.decisions[-1][1].panics


@pytest.mark.parametrize("policy", POLICIES, ids=IDS)
def test_it_goes_down_only_after_the_delay_and_to_the_least(policy: Policy) -> None:
    """When nothing is asked any more the number stays for the delay at least, then falls to 1."""
    simulation = Simulation(policy, lambda _: 60.0, start=4)
    simulation.run(1500)
    busy, since = simulation.wanted, simulation.now_s
    assert busy > 4
    simulation.rate = lambda _: 0.0
    simulation.run(policy.delay_s)
    assert all(decision.wanted >= busy for when, decision in simulation.decisions if when > since)
    simulation.run(1500)
    assert simulation.wanted == 1


def test_one_decision_halves_at_most() -> None:
    """From 16 it goes down by half at a time, each time after another look."""
    simulation = Simulation(by_rate(7.0, delay_s=0.0), lambda _: 100.0, start=16)
    simulation.run(120)
    simulation.rate = lambda _: 0.0
    simulation.run(200)
    counts = simulation.counts()
    assert all(after >= before // 2 for before, after in itertools.pairwise(counts))
    assert counts[-1] == 1


@pytest.mark.parametrize("policy", POLICIES, ids=IDS)
def test_missing_telemetry_never_makes_fewer(policy: Policy) -> None:
    """Whether one gateway of two is silent, gone, or nobody says anything: nothing shrinks."""
    for fail in ("silent", "all silent", "gone"):
        simulation = Simulation(policy, lambda _: 60.0, gateways=2)
        simulation.run(300)
        busy, since = simulation.wanted, simulation.now_s
        simulation.rate = lambda _: 0.0
        for gateway in simulation.gateways if fail == "all silent" else simulation.gateways[:1]:
            gateway.reports, gateway.connected = False, fail != "gone"
        simulation.run(PACE.stable_s if fail == "gone" else 900)
        assert all(d.wanted >= busy for when, d in simulation.decisions if when > since), fail
        assert "no news of gateway-0" in simulation.decisions[-1][1].reason


def test_a_gateway_that_is_gone_for_good_is_not_missed_for_ever() -> None:
    """After the window the others' word is enough."""
    simulation = Simulation(by_rate(7.0), lambda _: 60.0, gateways=2)
    simulation.run(300)
    simulation.rate = lambda _: 0.0
    simulation.gateways[0].connected = False
    simulation.run(600)
    assert simulation.wanted == 1


def test_more_is_asked_for_although_one_gateway_is_silent() -> None:
    """What the other one sees is enough to make more."""
    simulation = Simulation(by_rate(7.0), lambda _: 4.0, gateways=2)
    simulation.run(120)
    simulation.gateways[0].reports = False
    simulation.rate = lambda _: 60.0
    simulation.run(30)
    assert simulation.wanted >= 4


def test_a_restarted_gateway_counts_from_nothing_and_nobody_notices() -> None:
    """Counts that begin anew are neither a fall nor a burst."""
    simulation = Simulation(by_rate(7.0), lambda _: 31.0, gateways=2)
    simulation.run(600)
    settled, since = simulation.wanted, simulation.now_s
    for _ in range(20):
        simulation.gateways[0].restart()
        simulation.run(15)
    assert simulation.counts(since) == [settled]


@pytest.mark.parametrize("jump_s", [45.0, 86_400.0, -500.0])
def test_a_clock_that_jumps_changes_nothing(jump_s: float) -> None:
    """Neither a leap nor a step back makes fewer, and afterwards it goes on as before."""
    simulation = Simulation(by_rate(7.0), lambda _: 31.0)
    simulation.run(600)
    settled = simulation.wanted
    simulation.now_s += jump_s
    for _ in range(40):
        simulation.run(4)
        assert simulation.wanted == settled
    simulation.rate = lambda _: 0.0
    simulation.run(400)
    assert simulation.wanted == 1


def test_a_restart_of_control_begins_where_it_was_and_holds() -> None:
    """A new autoscaler makes no fewer before it knows a whole window, whatever it sees."""
    simulation = Simulation(by_rate(7.0, delay_s=0.0), lambda _: 0.0, start=6)
    simulation.run(PACE.stable_s)
    assert simulation.counts() == [6]
    simulation.run(60)
    assert simulation.wanted == 1


@pytest.mark.parametrize(
    "policy",
    [by_rate(7.0, delay_s=0.0), concurrency(0.7, delay_s=0.0), by_queue(0.5, delay_s=0.0)],
    ids=IDS,
)
@pytest.mark.parametrize("late", [1, 2])
def test_a_gateway_that_a_new_control_hears_of_late_is_not_taken_for_idle(
    policy: Policy, late: int
) -> None:
    """What it did before its first report is unknown: there are no fewer until a window is known.

    Whether it is the only gateway or one of two.
    """
    simulation = Simulation(policy, lambda _: 35.0, gateways=2, start=6)
    for gateway in simulation.gateways[:late]:
        gateway.connected = False
    simulation.run(40)
    for gateway in simulation.gateways:
        gateway.connected = True
    simulation.run(PACE.stable_s - 2)
    assert simulation.counts() == [6]
    assert "are known" in simulation.decisions[-1][1].reason


def test_a_new_gateway_that_has_served_nothing_yet_makes_nothing_unknown() -> None:
    """One more gateway under a control that knows all others stops no decision."""
    simulation = Simulation(by_rate(7.0, delay_s=0.0), lambda _: 0.0, start=6)
    simulation.run(PACE.stable_s)
    simulation.gateways.append(Gateway("gateway-1"))
    simulation.run(20)
    assert simulation.wanted < 6


def test_what_was_too_few_is_not_tried_again_at_the_same_load() -> None:
    """With a target that one worker cannot meet it goes up once and remembers why."""
    simulation = Simulation(concurrency(50.0), lambda _: 15.0)
    simulation.run(1800)
    counts = simulation.counts()
    assert counts[-1] >= 2
    assert sum(after < before for before, after in itertools.pairwise(counts)) <= 2
    since = simulation.now_s
    simulation.rate = lambda _: 5.0
    simulation.run(600)
    assert simulation.wanted == 1, simulation.counts(since)


def steady(rate: float) -> Callable[[float], float]:
    """Return a load that does not change."""
    return lambda _: rate


faults = st.sampled_from(["", "silent", "gone", "restart", "leap", "back"])


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    least=st.integers(1, 5),
    more=st.integers(0, 12),
    delay_s=st.sampled_from([0.0, 10.0, 60.0]),
    parts=st.lists(st.tuples(st.floats(0, 300), st.integers(2, 60), faults), max_size=8),
    start=st.integers(0, 99),
)
def test_the_bounds_hold_whatever_happens(
    policy: Policy,
    least: int,
    more: int,
    delay_s: float,
    parts: list[tuple[float, int, str]],
    start: int,
) -> None:
    """No load, fault or clock takes the number out of its bounds, or down before the delay."""
    bounded = Policy(least, least + more, policy.metric, policy.target, delay_s, PACE)
    simulation = Simulation(bounded, lambda _: 5.0, gateways=2, start=start)
    for rate, seconds, fault in parts:
        simulation.rate = steady(rate)
        gateway = simulation.gateways[0]
        gateway.reports, gateway.connected = fault != "silent", fault != "gone"
        if fault == "restart":
            gateway.restart()
        simulation.now_s += {"leap": 1000.0, "back": -100.0}.get(fault, 0.0)
        simulation.run(seconds)
    wanted = [(when, decision.wanted) for when, decision in simulation.decisions]
    assert all(least <= count <= least + more for _, count in wanted)
    for index, (when, count) in enumerate(wanted[1:], 1):
        if count < wanted[index - 1][1] and delay_s:
            lately = [n for at, n in wanted[:index] if when - delay_s <= at <= when]
            assert all(n >= wanted[index - 1][1] for n in lately)
