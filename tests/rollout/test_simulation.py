"""Small versions of the simulations behind `docs/rollouts.md`."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.rollouts import detection, experiments, null, remembered
from bench.rollouts.watch import POLICY, STRICT, World
from salver.rollout.policy import Policy

SEED = 4


@pytest.mark.parametrize("policy", [POLICY, STRICT], ids=["margins", "no margins"])
def test_equal_versions_are_seldom_rolled_back(policy: Policy) -> None:
    """Sticky Zipf callers, bursts, an incident and a day's trend: alarms stay below alpha."""
    found = null.false_alarms(30, policy, World(null.STEPS), SEED)
    assert found.alarms / found.runs <= found.allowed


def test_requests_of_sticky_callers_are_no_units_of_evidence() -> None:
    """Taking each request for one on the same traffic cries wolf far more often than alpha."""
    found = null.false_alarms(20, STRICT, World(null.STEADY, alone=True), SEED)
    assert found.alarms / found.runs > 2 * found.allowed


def test_equal_versions_that_remember_unlike_parts_are_seldom_rolled_back() -> None:
    """By the share that ran; by the weight they would be far more often than alpha."""
    for memory in (remembered.Memory(), remembered.Memory(canary=0.3, primary=0.6)):
        assert remembered.false_alarms(50, memory, SEED) <= 0.05 + 3 * 0.031
    plain = remembered.Memory(by_weight=True)
    assert remembered.false_alarms(50, plain, SEED) > 0.05 + 3 * 0.031


@pytest.mark.parametrize("case", detection.cases(), ids=lambda case: case.name)
def test_harm_is_found_with_few_requests(case: detection.Case) -> None:
    """The median is within twice Wald's expectation and five events, give or take its error."""
    found = detection.independent(case, 25, SEED)
    assert found.median <= 1.25 * found.allowed


def test_harm_by_sticky_callers_is_found_too() -> None:
    """With the caller as the unit of evidence a failing canary is still rolled back."""
    worst = next(case for case in detection.cases() if case.truth == 0.05)
    found = detection.sticky(worst, 5, SEED)
    assert found.median < 1_000


@pytest.mark.parametrize(
    "world", [w for w in experiments.WORLDS if w.adaptive and not w.naive], ids=lambda w: w.name
)
def test_intervals_hold_while_the_split_follows_success(world: experiments.World) -> None:
    """Looked at after every block, and the better arm gets most of the traffic."""
    found = experiments.coverage(world, 12, SEED)
    assert found.missed / found.runs <= found.allowed
    assert found.second > 0.6 or not world.effect


def test_what_was_known_before_narrows_intervals() -> None:
    """Those of values to half, those of yes and no too, and neither misses more."""
    for plain, known in (
        ("callers, values, 50/50, plain", "callers, values, 50/50, with what was known before"),
        ("callers, yes or no, 50/50, plain",
         "callers, yes or no, 50/50, with what was known before"),
    ):  # fmt: skip
        worlds = {world.name: world for world in experiments.WORLDS}
        before, after = (experiments.coverage(worlds[name], 8, SEED) for name in (plain, known))
        assert after.width < before.width
        assert after.missed / after.runs <= after.allowed


def test_runs_that_are_shared_among_threads_have_the_same_outcome() -> None:
    """Each run has its own seed, wherever it is made."""
    world = World(null.STEADY, alone=True)
    with ThreadPoolExecutor(2) as pool:
        shared = null.false_alarms(6, STRICT, world, SEED, pool.map)
    assert shared == null.false_alarms(6, STRICT, world, SEED)
    assert shared.alarms > 0
