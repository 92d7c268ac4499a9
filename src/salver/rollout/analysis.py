"""From what was counted to a report: no clock, no storage, the same answer for the same counts.

The report follows from cumulative counts alone, so control may be killed at any moment: whoever
reads the stored counts again comes to the same report.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from salver.rollout import kayenta
from salver.rollout.evidence import Observed
from salver.rollout.metrics.base import Question
from salver.rollout.metrics.table import is_plugin, metric
from salver.rollout.policy import MetricSpec, Policy
from salver.rollout.report import MetricReport, Report, Verdict
from salver.rollout.sample_ratio import sample_ratio
from salver.rollout.tally import POINTS, ran


def analyse(
    policy: Policy,
    observed: Sequence[Observed],
    elapsed_s: float,
    series: Mapping[str, Mapping[str, kayenta.Series]] | None = None,
    *,
    plugins: bool = True,
) -> Report:
    """Compare canary and primary in all measured blocks.

    ``elapsed_s`` is the time since the canary first got traffic, pauses included. ``series`` are
    values per time slice by metric and part, for the ``kayenta`` method only. Before the warm-up is
    over, and while the sample ratio does not hold, there are no metrics in the report: nothing may
    be said of them. A metric whose function raises is in the report as *failed*. Without
    ``plugins`` metrics of plug-ins are left out; see ``asks_plugins``.
    """
    measured = [each for each in observed if not each.block.warmup]
    total = sum(_requests(each) for each in observed)
    warm = total >= policy.warmup_requests and elapsed_s >= policy.warmup_s
    comparable = _comparable(observed)
    ratio = sample_ratio(comparable, policy.sample_ratio_alpha)
    metrics: tuple[MetricReport, ...] = ()
    if warm and ratio.holds:
        if policy.method == "kayenta":
            given = series or {}
            metrics = tuple(
                kayenta.report(spec, given.get(spec.name, {})) for spec in policy.metrics
            )
        else:
            metrics = tuple(
                _ask(policy, spec, comparable)
                for spec in policy.metrics
                if plugins or not is_plugin(spec.kind)
            )
    return Report(
        warm=warm,
        requests=sum(_requests(each) for each in measured),
        step_requests=_requests(measured[-1]) if measured else 0,
        sample_ratio=ratio,
        metrics=metrics,
    )


def asks_plugins(report: Report, policy: Policy) -> bool:
    """Tell whether a report without plug-ins lacks metrics of theirs."""
    is_sequential = policy.method != "kayenta"
    may_be_said = report.warm and report.sample_ratio.holds
    return is_sequential and may_be_said and any(is_plugin(s.kind) for s in policy.metrics)


def ask_plugins(
    policy: Policy, observed: Sequence[Observed], found: dict[str, MetricReport]
) -> None:
    """Compute the metrics of plug-ins and put each into ``found`` as soon as it is known.

    A function may not come back; what others said before is known then.
    """
    comparable = _comparable(observed)
    for spec in policy.metrics:
        if is_plugin(spec.kind):
            found[spec.name] = _ask(policy, spec, comparable)


def with_plugins(
    report: Report, policy: Policy, found: Mapping[str, MetricReport], problem: str
) -> Report:
    """Return a report with what plug-ins have found; what they have not has *failed*."""
    known = {each.name: each for each in report.metrics} | dict(found)
    metrics = [
        known.get(spec.name) or _failed(policy, spec, problem)
        for spec in policy.metrics
        if spec.name in known or is_plugin(spec.kind)
    ]
    return msgspec.structs.replace(report, metrics=tuple(metrics))


def _comparable(observed: Sequence[Observed]) -> list[Observed]:
    return [each for each in observed if not each.block.warmup and each.block.weight < POINTS]


def _ask(policy: Policy, spec: MetricSpec, observed: Sequence[Observed]) -> MetricReport:
    question = Question(observed, spec, policy.alpha_of(spec), policy.shrink)
    try:
        found: object = metric(spec.kind)(question)
        return _checked(found, spec)
    except Exception as error:
        # A plug-in may raise anything; whatever it is must pause the rollout, not end control.
        return _failed(policy, spec, f"{type(error).__name__}: {error}")


def _failed(policy: Policy, spec: MetricSpec, reason: str) -> MetricReport:
    return MetricReport(
        spec.name,
        Verdict.FAILED,
        spec.critical,
        spec.max_increase,
        spec.relative,
        policy.alpha_of(spec),
        reason=reason,
    )


def _checked(found: object, spec: MetricSpec) -> MetricReport:
    """Return what a metric's function returned; raises for what is no report of this metric."""
    if not isinstance(found, MetricReport):
        raise TypeError(f"it returned a {type(found).__name__} in the place of a MetricReport")
    # Nobody has checked the fields of what a plug-in made: a verdict may be mere text.
    builtins = msgspec.to_builtins(found, enc_hook=_python)
    report = msgspec.convert(builtins, MetricReport)
    if (report.name, report.critical) != (spec.name, spec.critical):
        raise ValueError("its report must have the name and the weight (critical) of its spec")
    return report


def _python(value: object) -> object:
    """Return a number of NumPy as one of Python."""
    if isinstance(value, np.generic):
        number: object = value.item()
        return number
    raise NotImplementedError


def _requests(each: Observed) -> int:
    return int(ran(each.canary.rows).sum())
