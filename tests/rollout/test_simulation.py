"""Small versions of the simulations behind `docs/rollouts.md`."""

import pytest

from bench.rollouts import detection, null
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
