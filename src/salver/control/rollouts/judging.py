"""From what was counted of a rollout to what is done: the policy, the report, the finding."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from salver.core.errors import InvalidRequest
from salver.core.rollouts import RolloutPolicy
from salver.registry.records import VersionRecord
from salver.rollout.analysis import analyse
from salver.rollout.columns import Columns
from salver.rollout.evidence import Observed
from salver.rollout.judge import Standing, decide
from salver.rollout.machine import Finding, Rollout
from salver.rollout.metrics.latency import quantile
from salver.rollout.metrics.table import is_plugin, metric
from salver.rollout.policy import DEFAULT_METRICS, MetricSpec, Policy
from salver.rollout.report import Report
from salver.rollout.series import Slices, check_kinds
from salver.rollout.tally import Floats, Layout

MAX_LABELS = 64
KAYENTA = "kayenta"
MIN_SLICE_S, MAX_SLICE_S = 1.0, 3_600.0
_LATENCY, _CLASSES, _SCORE = "latency", "class_share", "score"
_FEEDBACK = frozenset(("feedback_rate", "feedback_mean"))
_NO_LIMIT_S = 1e12
_USUAL_S = 0.01
_WARM_UP = Layout(("warm-up",), (1.0,))
WARM_UP = Columns(_WARM_UP, _WARM_UP)
"""What is counted before the arms are compared: enough to learn the primary's usual latency."""


class Analysis(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What may be said of a comparison besides the rollout's own settings; see ``Policy``.

    ``labels`` are the classes and ``score_edges`` the bins of scores that gateways count. An
    answer that is later by less than ``latency_floor_s`` is never slower: where models take a
    fraction of that, the batches of an arm with little traffic alone make a difference. A
    blue-green version is not promoted without a person while less than ``min_agreement`` of its
    copies' answers agree with the primary's; 0 lets them differ. ``method`` is *sequential*, or
    *kayenta* on the values of slices of ``slice_s`` seconds.
    """

    alpha: float = 0.05
    metrics: tuple[MetricSpec, ...] = ()
    warmup_requests: int = 20
    warmup_s: float = 10.0
    sample_ratio_alpha: float = 0.001
    promote_on: Literal["equivalent", "no_worse"] = "equivalent"
    latency_floor_s: float = 0.001
    min_agreement: float = 0.9
    labels: tuple[str, ...] = ()
    score_edges: tuple[float, ...] = ()
    method: Literal["sequential", "kayenta"] = "sequential"
    slice_s: float = 10.0


def read_analysis(document: dict[str, Any]) -> Analysis:
    """Return the settings of a comparison; raises ``InvalidRequest`` naming what is wrong."""
    try:
        analysis = msgspec.convert(document, Analysis, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"analysis: {error}") from error
    if not 0 <= analysis.latency_floor_s < math.inf:
        raise InvalidRequest("analysis: latency_floor_s must not be negative")
    if not 0 <= analysis.min_agreement <= 1:
        raise InvalidRequest("analysis: min_agreement is a share, 0 to 1")
    if not MIN_SLICE_S <= analysis.slice_s <= MAX_SLICE_S:
        raise InvalidRequest(f"analysis: slice_s is {MIN_SLICE_S:g} to {MAX_SLICE_S:g} seconds")
    return analysis


def judge_policy(policy: RolloutPolicy) -> Policy:
    """Return by what a rollout is judged.

    Raises ``InvalidRequest`` and ``InvalidSettings`` for what cannot be meant.
    """
    own = read_analysis(policy.analysis)
    is_kayenta = own.method == KAYENTA
    has_classes = own.labels and not is_kayenta
    chosen = own.metrics or tuple(
        spec for spec in DEFAULT_METRICS if spec.kind != _CLASSES or has_classes
    )
    if is_kayenta:
        check_kinds(chosen, own.score_edges)
    document = {
        "alpha": own.alpha,
        "metrics": msgspec.to_builtins(chosen),
        "warmup_requests": own.warmup_requests,
        "warmup_s": own.warmup_s,
        "min_requests": policy.min_requests,
        "sample_ratio_alpha": own.sample_ratio_alpha,
        "max_duration_s": policy.max_duration_s or _NO_LIMIT_S,
        "no_traffic_s": policy.no_traffic_s,
        "promote_on": own.promote_on,
        "method": own.method,
    }
    try:
        judged = msgspec.convert(document, Policy)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"analysis: {error}") from error
    judged.validate()
    for spec in judged.metrics:
        metric(spec.kind)
    columns_of(policy, judged, None).canary.validate()
    return judged


def with_labels(policy: RolloutPolicy, version: VersionRecord) -> RolloutPolicy:
    """Return a policy that names the classes to count, if the model declares any and it does not.

    The classes are the declared categories of an output with one column.
    """
    if "labels" in policy.analysis:
        return policy
    for spec in version.manifest.signature.outputs:
        for column in spec.columns[:1]:
            if column.categories and len(column.categories) <= MAX_LABELS:
                labels = [str(category) for category in column.categories]
                analysis = {**policy.analysis, "labels": labels}
                return msgspec.structs.replace(policy, analysis=analysis)
    return policy


def columns_of(policy: RolloutPolicy, judged: Policy, usual: Floats | None) -> Columns:
    """Return what gateways shall count; ``usual`` are the primary's latencies in bins.

    A canary's threshold is the primary's times what its metric tolerates, and at least the floor
    above it.
    """
    own = read_analysis(policy.analysis)
    latencies = [spec for spec in judged.metrics if spec.kind == _LATENCY]
    primary = tuple(_threshold_s(spec, usual) for spec in latencies)
    canary = tuple(
        max(seconds * (1 + spec.max_increase), seconds + own.latency_floor_s)
        for seconds, spec in zip(primary, latencies, strict=True)
    )
    feedback = tuple(dict.fromkeys(s.feedback_name for s in judged.metrics if s.kind in _FEEDBACK))
    names = tuple(spec.name for spec in latencies)
    # Whether somebody else's function looks at scores is not known.
    scored = any(s.kind == _SCORE or is_plugin(s.kind) for s in judged.metrics)
    edges = own.score_edges if scored else ()
    mean = any(spec.mean for spec in judged.metrics) or msgspec.UNSET
    both = Layout(names, primary, own.labels, edges, feedback, mean)
    return Columns(msgspec.structs.replace(both, thresholds_s=canary), both)


def is_warm_up(columns: Columns) -> bool:
    """Tell whether what gateways count is not to be compared."""
    return columns.primary == _WARM_UP


def captures(columns: bytes) -> bool:
    """Tell whether gateways have to look at answers to count these columns."""
    return bool(columns) and msgspec.msgpack.decode(columns, type=Columns).captures


def finding(
    rollout: Rollout,
    judged: Policy,
    observed: Sequence[Observed],
    slices: Slices | None = None,
    *,
    plugins: bool = True,
) -> tuple[Report, Finding]:
    """Return the report and what a judge makes of it; ``slices`` are for Kayenta's test.

    Without ``plugins`` what their metrics say is left out.
    """
    series = slices.series() if slices is not None else None
    report = analyse(judged, observed, rollout.exposed_s, series, plugins=plugins)
    return report, finding_of(rollout, judged, report)


def finding_of(rollout: Rollout, judged: Policy, report: Report) -> Finding:
    """Return what a judge makes of a report."""
    standing = Standing(rollout.is_last, rollout.running_s, rollout.quiet_s)
    decision = decide(report, judged, standing)
    return Finding(decision.kind.value, decision.reason, evidence_of(report))


def evidence_of(report: Report) -> dict[str, Any]:
    """Return a report as histories and the API show it."""
    metrics = [_line(msgspec.to_builtins(each)) for each in report.metrics]
    return {
        "warm": report.warm,
        "requests": report.requests,
        "sample_ratio": msgspec.to_builtins(report.sample_ratio),
        "metrics": metrics,
    }


def _line(metric_report: dict[str, Any]) -> dict[str, Any]:
    """Return one without numbers that JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metric_report.items()
    }


def _threshold_s(spec: MetricSpec, usual: Floats | None) -> float:
    if usual is None or not usual.any():
        return _USUAL_S
    return quantile(usual, spec.quantile)
