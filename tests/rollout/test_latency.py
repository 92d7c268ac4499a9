"""How much slower a canary is, also where its answers lie on one side of the threshold only."""

import msgspec
import numpy as np
import pytest

from salver.rollout.analysis import analyse
from salver.rollout.evidence import Block, Observed
from salver.rollout.judge import Kind, Standing, decide
from salver.rollout.policy import MetricSpec, Policy
from salver.rollout.report import MetricReport, Report, Verdict
from salver.rollout.tally import POINTS, SEGMENTS, Floats, Layout, Table, Tally

P50 = MetricSpec("p50", "latency", 0.03, relative=True, quantile=0.5)
P95 = msgspec.structs.replace(P50, name="p95", quantile=0.95)
FLOOR_S = 0.001
REQUESTS = 6_000


def answered(
    spec: MetricSpec,
    threshold_s: float,
    primary_s: Floats,
    canary_s: Floats,
    *,
    weight: int = 5_000,
    floor_s: float = FLOOR_S,
) -> Observed:
    """Return a block of answers without routing keys that took these times."""
    later_s = max(threshold_s * (1 + spec.max_increase), threshold_s + floor_s)
    where = Block(1, weight, Layout((spec.name,), (later_s,)), Layout((spec.name,), (threshold_s,)))
    end = weight * SEGMENTS // POINTS
    canary = _table(where.canary, range(end), canary_s)
    return Observed(where, canary, _table(where.primary, range(end, SEGMENTS), primary_s))


def _table(layout: Layout, segments: range, took_s: Floats) -> Table:
    tally = Tally(layout)
    for place, seconds in enumerate(took_s.tolist()):
        tally.answered(segments[place % len(segments)], seconds, keyed=False)
    return tally.table()


def judged(spec: MetricSpec, *blocks: Observed) -> tuple[Report, MetricReport]:
    """Return the report of these blocks, and the one metric in it."""
    report = analyse(Policy(metrics=(spec,), warmup_s=0.0), blocks, 60.0)
    return report, report.metrics[0]


def took_s(seed: int, usual_s: float, spread: float, requests: int = REQUESTS) -> Floats:
    """Return times with that median, log-normal."""
    return np.random.default_rng(seed).lognormal(np.log(usual_s), spread, requests)


@pytest.mark.parametrize("slower", [1.6, 10.0])
@pytest.mark.parametrize("spec", [P50, P95], ids=["p50", "p95"])
def test_a_canary_that_is_always_late_is_worse_by_its_own_quantile(
    spec: MetricSpec, slower: float
) -> None:
    """Its share above the threshold has no more to say, so that the interval is open above."""
    primary = took_s(1, 0.005, 0.03)
    usual_s = float(np.quantile(primary, spec.quantile))
    canary = took_s(2, 0.005 * slower, 0.03)
    report, found = judged(spec, answered(spec, usual_s, primary, canary))
    assert found.verdict is Verdict.WORSE
    assert found.estimate == pytest.approx(slower - 1, rel=0.05)
    assert found.high is None
    assert found.low is not None
    assert found.margin < found.low < 0.5
    decision = decide(report, Policy(metrics=(spec,)), Standing(True, 60.0, 0.0))
    assert decision.kind is Kind.ROLL_BACK
    assert f"{spec.name} is worse by {found.estimate:.3g}, at least {found.low:.3g}" in (
        decision.reason
    )


@pytest.mark.parametrize("change", [-0.1, 0.1, 0.3])
@pytest.mark.parametrize("spec", [P50, P95], ids=["p50", "p95"])
def test_a_small_change_is_estimated_within_a_few_per_cent(spec: MetricSpec, change: float) -> None:
    """Both ends are known, and what was done lies between them."""
    primary, canary = took_s(3, 0.2, 0.5), took_s(4, 0.2 * (1 + change), 0.5)
    usual_s = float(np.quantile(primary, spec.quantile))
    _, found = judged(spec, answered(spec, usual_s, primary, canary))
    assert found.estimate == pytest.approx(change, abs=0.05)
    assert found.low is not None
    assert found.high is not None
    assert -1.0 < found.low < change < found.high
    assert found.verdict is (Verdict.WORSE if change > 0 else Verdict.BETTER)


@pytest.mark.parametrize("faster", [0.5, 0.1])
def test_a_canary_that_is_never_late_is_better_by_its_own_quantile(faster: float) -> None:
    """None of its answers is above the threshold: how little they take is open below."""
    primary, canary = took_s(5, 0.05, 0.03), took_s(6, 0.05 * faster, 0.03)
    _, found = judged(P50, answered(P50, 0.05, primary, canary))
    assert found.verdict is Verdict.BETTER
    assert found.estimate == pytest.approx(faster - 1, rel=0.05)
    assert found.low == -1.0
    assert found.high is not None
    assert found.estimate is not None
    assert found.estimate < found.high < 0.0


@pytest.mark.parametrize("threshold_s", [0.001, 10.0])
@pytest.mark.parametrize("slower", [0.2, 1.0, 5.0])
def test_a_threshold_on_one_side_of_all_answers_shows_nothing(
    threshold_s: float, slower: float
) -> None:
    """It has become stale: a canary five times slower is not equivalent by it, nor better."""
    primary, canary = took_s(7, 0.1, 0.1), took_s(8, 0.1 * slower, 0.1)
    _, found = judged(P50, answered(P50, threshold_s, primary, canary, floor_s=0.0))
    assert found.verdict is Verdict.NOT_ENOUGH
    assert found.estimate == pytest.approx(slower - 1, abs=0.05)
    assert (found.low, found.high) == (-1.0, None)


def test_a_slow_time_of_day_is_not_the_canarys() -> None:
    """A canary that had more traffic while both were slow is neither called slow nor fast."""
    calm = answered(P50, 0.1, took_s(9, 0.1, 0.3, 9_500), took_s(10, 0.1, 0.3, 500), weight=500)
    rough = answered(P50, 0.3, took_s(11, 0.3, 0.3), took_s(12, 0.3, 0.3))
    _, found = judged(P50, calm, rough)
    assert found.canary is not None
    assert found.primary is not None
    assert found.canary > 1.5 * found.primary
    assert found.verdict is Verdict.EQUIVALENT
    assert found.estimate == pytest.approx(0.0, abs=0.02)
    assert found.low == pytest.approx(-0.03, abs=0.03)


def test_a_share_that_was_another_in_another_block_misleads_nobody() -> None:
    """Most of the canary's traffic met a stale threshold; its interval holds what was done."""
    calm = answered(P50, 0.1, took_s(15, 0.1, 0.3, 9_500), took_s(16, 0.13, 0.3, 500), weight=500)
    stale = answered(P50, 0.42, took_s(17, 0.3, 0.3), took_s(18, 0.39, 0.3))
    _, found = judged(P50, calm, stale)
    assert found.estimate == pytest.approx(0.3, abs=0.03)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.3 < found.high


def test_an_estimate_lies_in_its_interval() -> None:
    """Also where the threshold has become the median, and only quick answers are slower."""
    primary = took_s(14, 0.1, 0.5)
    canary = np.where(primary < 0.15, 1.4 * primary, primary)
    _, found = judged(P95, answered(P95, 0.1, primary, canary))
    assert found.verdict is Verdict.WORSE
    assert found.low is not None
    assert found.high is not None
    assert found.estimate is not None
    assert found.margin < found.low <= found.estimate <= found.high


def test_arms_that_never_met_have_no_estimate() -> None:
    """Blocks of one arm each are compared with nothing."""
    none, some = np.array([]), took_s(13, 0.1, 0.3)
    _, found = judged(P50, answered(P50, 0.1, some, none), answered(P50, 0.1, none, some))
    assert found.verdict is not Verdict.WORSE
    assert found.estimate is None
