"""From what was counted to a report: no clock, no storage, the same answer for the same counts.

The report follows from cumulative counts alone, so control may be killed at any moment: whoever
reads the stored counts again comes to the same report.
"""

from collections.abc import Mapping, Sequence

from salver.rollout import kayenta
from salver.rollout.evidence import Observed
from salver.rollout.metrics.base import Question
from salver.rollout.metrics.table import metric
from salver.rollout.policy import MetricSpec, Policy
from salver.rollout.report import MetricReport, Report, Verdict
from salver.rollout.sample_ratio import sample_ratio
from salver.rollout.tally import POINTS, REQUESTS


def analyse(
    policy: Policy,
    observed: Sequence[Observed],
    elapsed_s: float,
    series: Mapping[str, kayenta.Series] | None = None,
) -> Report:
    """Compare canary and primary in all measured blocks.

    ``elapsed_s`` is the time since the canary first got traffic, pauses included. ``series`` are
    values per time slice by metric, for the ``kayenta`` method only. Before the warm-up is over,
    and while the sample ratio does not hold, there are no metrics in the report: nothing may be
    said of them. A metric whose function raises is in the report as *failed*.
    """
    measured = [each for each in observed if not each.block.warmup]
    total = sum(_requests(each) for each in observed)
    warm = total >= policy.warmup_requests and elapsed_s >= policy.warmup_s
    comparable = [each for each in measured if each.block.weight < POINTS]
    ratio = sample_ratio(comparable, policy.sample_ratio_alpha)
    metrics: tuple[MetricReport, ...] = ()
    if warm and ratio.holds:
        if policy.method == "kayenta":
            given = series or {}
            metrics = tuple(kayenta.report(spec, given.get(spec.name)) for spec in policy.metrics)
        else:
            metrics = tuple(_ask(policy, spec, comparable) for spec in policy.metrics)
    return Report(
        warm=warm,
        requests=sum(_requests(each) for each in measured),
        step_requests=_requests(measured[-1]) if measured else 0,
        sample_ratio=ratio,
        metrics=metrics,
    )


def _ask(policy: Policy, spec: MetricSpec, observed: Sequence[Observed]) -> MetricReport:
    alpha = policy.alpha_of(spec)
    try:
        return metric(spec.kind)(Question(observed, spec, alpha, policy.shrink))
    except Exception as error:
        # A plug-in may raise anything; whatever it is must pause the rollout, not end control.
        return MetricReport(
            spec.name,
            Verdict.FAILED,
            spec.critical,
            spec.max_increase,
            spec.relative,
            alpha,
            reason=f"{type(error).__name__}: {error}",
        )


def _requests(each: Observed) -> int:
    return int(each.canary.rows[:, REQUESTS].sum())
