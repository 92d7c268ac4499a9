"""Reported outcomes reach the arms that they are about, each once."""

import msgspec
import numpy as np
import pytest

from salver.control.rollouts.outcomes import wanted_of, with_feedback
from salver.core.rollouts import RolloutPolicy
from salver.registry.feedback import Sums
from salver.rollout.analysis import analyse
from salver.rollout.evidence import Block, Observed
from salver.rollout.machine import Rollout
from salver.rollout.policy import MetricSpec, Policy
from salver.rollout.report import Verdict
from salver.rollout.tally import LATENCY_BINS, REQUESTS, SEGMENTS, Layout, Table

LAYOUT = Layout(feedback=("paid",))
ROLLOUT = Rollout("e", 1, "m:1", "m:2", RolloutPolicy(), "salt", 0, "somebody")
WEIGHT = 5_000


def block(epoch: int, layout: Layout = LAYOUT) -> Observed:
    """Return a block in which every segment had ten requests of its arm."""
    tables = []
    for is_canary in (True, False):
        rows = np.zeros((SEGMENTS, layout.width))
        own = np.arange(SEGMENTS) < SEGMENTS // 2
        rows[:, REQUESTS] = np.where(own == is_canary, 10, 0)
        tables.append(Table(rows, np.zeros(LATENCY_BINS)))
    return Observed(Block(epoch, WEIGHT, layout, layout), tables[0], tables[1])


def test_outcomes_are_added_to_their_arm_block_and_segment() -> None:
    """Those of other versions, epochs, and of requests that chance did not route are left out."""
    sums = [
        Sums(2, 7, 12, 3, 2.0, 2.0),
        Sums(1, 7, 9_999, 4, 1.0, 1.0),
        Sums(2, 8, 12, 1, 1.0, 1.0),
        Sums(3, 7, 12, 9, 9.0, 9.0),
        Sums(2, 6, 12, 9, 9.0, 9.0),
        Sums(2, 7, -1, 9, 9.0, 9.0),
    ]
    given = [block(7), block(8), block(9, Layout())]
    found = with_feedback(ROLLOUT, given, {"paid": sums, "unknown": sums})
    first = LAYOUT.first_feedback
    assert found[0].canary.rows[2, first : first + 3].tolist() == [3, 2, 2]
    assert found[0].primary.rows[1_999, first : first + 3].tolist() == [4, 1, 1]
    assert found[1].canary.rows[2, first] == 1
    assert sum(each.canary.rows[:, first:].sum() for each in found[:2]) == 10
    assert not given[0].canary.rows[:, first:].any()
    assert wanted_of(given) == [("paid", [7, 8])]


def test_a_canary_that_callers_report_badly_of_is_worse() -> None:
    """The same evidence, once more read from what is stored, says the same."""
    spec = MetricSpec("paid", "feedback_rate", 0.01, direction="decrease", label="paid")
    policy = Policy(metrics=(spec,), warmup_s=0.0)
    rng = np.random.default_rng(5)
    sums = []
    for place in range(0, 10_000, 5):
        version = 2 if place < WEIGHT else 1
        paid = float(rng.binomial(10, 0.3 if version == 2 else 0.5))
        sums.append(Sums(version, 7, place, 10, paid, paid))
    for _ in range(2):
        observed = with_feedback(ROLLOUT, [block(7)], {"paid": sums})
        (metric,) = analyse(policy, observed, 60.0).metrics
        assert metric.verdict == Verdict.WORSE
    assert msgspec.to_builtins(metric)["canary"] < 0.35


@pytest.mark.parametrize("value", [1e9, -1e9, 2.0, -1.0, 50.0])
def test_one_absurd_value_hides_nothing(value: float) -> None:
    """Its segment is left out, the report says so, and what the others report is compared."""
    spec = MetricSpec("paid", "feedback_rate", 0.01, direction="decrease", label="paid")
    policy = Policy(metrics=(spec,), warmup_s=0.0)
    rng = np.random.default_rng(5)
    sums = []
    for place in range(0, 10_000, 5):
        version = 2 if place < WEIGHT else 1
        paid = float(rng.binomial(10, 0.3 if version == 2 else 0.5))
        sums.append(Sums(version, 7, place, 10, paid, paid))
    sums.append(Sums(2, 7, 12, 1, value, value**2))
    observed = with_feedback(ROLLOUT, [block(7)], {"paid": sums})
    (metric,) = analyse(policy, observed, 60.0).metrics
    assert metric.verdict == Verdict.WORSE
    assert metric.canary is not None
    assert 0.25 < metric.canary < 0.35
    assert metric.reason == "values outside 0 to 1 were reported; segments left out for it: 1"
    absurd = with_feedback(ROLLOUT, [block(7)], {"paid": sums[-1:]})
    (metric,) = analyse(policy, absurd, 60.0).metrics
    assert metric.verdict == Verdict.NOT_ENOUGH
    assert metric.reason.startswith("nothing was counted of the canary and the primary; val")
