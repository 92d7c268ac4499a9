"""What a rollout is judged by, as its owner wrote it down."""

from collections import Counter
from typing import Literal

import msgspec

from salver.core.errors import InvalidRequest, InvalidSettings
from salver.core.feedback import ANY_VALUE, Bounds

Direction = Literal["increase", "decrease", "either"]
MAX_METRICS = 16
_LARGEST_ALPHA = 0.5
_MEAN, _SCORE = "feedback_mean", "score"
_KAYENTA = "kayenta"


class MetricSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One comparison of canary and primary.

    ``kind`` names its function, see ``metrics/table.py``. ``direction`` is the change that does
    harm, ``max_increase`` how much of it is tolerated: a difference (0.001 is 0.1 percentage
    points) or, with ``relative``, a part of the primary's (0.03 is 3 %). A *worse* of a
    ``critical`` metric rolls back, of another it pauses. ``share`` is the part of the rollout's
    false alarms that this metric may cause, as a weight beside the others'.
    ``promote_on`` is what it must show before all traffic moves where that is not what the policy
    says. ``label`` is the
    class or the feedback metric that is meant; for classes and scores empty means all, for
    feedback the metric's own name. Feedback outside ``minimum`` to ``maximum`` is refused while the
    rollout goes on. With ``mean`` the mean of scores is compared beside the shares above the score
    edges, if there are any; only Kayenta's test does that.
    """

    name: str
    kind: str
    max_increase: float
    relative: bool = False
    direction: Direction = "increase"
    critical: bool = True
    share: float = 1.0
    promote_on: Literal["", "equivalent", "no_worse"] = ""
    quantile: float = 0.95
    label: str = ""
    minimum: float | None = None
    maximum: float | None = None
    mean: bool = False

    @property
    def bounds(self) -> Bounds:
        """Return what values callers may report of it."""
        return Bounds(self.minimum, self.maximum)

    @property
    def feedback_name(self) -> str:
        """Return under which name callers report what a feedback metric compares."""
        return self.label or self.name


DEFAULT_METRICS = (
    MetricSpec("error_rate", "error_rate", 0.001, share=10),
    # How much garbage callers send is not the versions' doing, and to know a share of some per cent
    # within 0.1 points takes a hundred times the requests that an error rate near 0 does.
    MetricSpec("refusal_rate", "refusal_rate", 0.001, share=5, promote_on="no_worse"),
    MetricSpec("latency_p95", "latency", 0.03, relative=True, share=42),
    MetricSpec(
        "latency_p50", "latency", 0.03, relative=True, share=5, quantile=0.5, critical=False
    ),
    MetricSpec(
        "latency_p99", "latency", 0.1, relative=True, share=5, quantile=0.99, critical=False
    ),
    MetricSpec("class_share", "class_share", 0.01, direction="either", share=38, critical=False),
)


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a rollout is judged.

    ``alpha`` bounds the probability of a false *worse* over the whole rollout: all metrics, all
    steps, however often one looks. ``warmup_requests`` and ``warmup_s`` must pass before counts
    are compared, ``min_requests`` of the canary in each step before the next.
    ``sample_ratio_alpha`` bounds false alarms of the sample-ratio check. ``promote_on`` says what
    critical metrics must show before all traffic moves: ``equivalent`` (or better), or only
    ``no_worse``. ``method`` is the sequential comparison, or Kayenta's test of time series, which
    may be looked at once only. A step whose canary gets nothing for ``no_traffic_s`` pauses.
    """

    alpha: float = 0.05
    metrics: tuple[MetricSpec, ...] = DEFAULT_METRICS
    warmup_requests: int = 20
    warmup_s: float = 10.0
    min_requests: int = 200
    sample_ratio_alpha: float = 0.001
    max_duration_s: float = 1800.0
    no_traffic_s: float = 60.0
    promote_on: Literal["equivalent", "no_worse"] = "equivalent"
    method: Literal["sequential", "kayenta"] = "sequential"
    shrink: bool = True

    def validate(self) -> None:
        """Raise ``InvalidSettings`` for what cannot be meant."""
        for name in ("alpha", "sample_ratio_alpha"):
            if not 0.0 < getattr(self, name) <= _LARGEST_ALPHA:
                raise InvalidSettings(f"{name} is a probability above 0 and at most 0.5")
        for name in (
            "warmup_requests",
            "warmup_s",
            "min_requests",
            "max_duration_s",
            "no_traffic_s",
        ):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} must not be negative")
        if not 1 <= len(self.metrics) <= MAX_METRICS:
            raise InvalidSettings(f"a policy has 1 to {MAX_METRICS} metrics")
        repeated = [name for name, n in Counter(m.name for m in self.metrics).items() if n > 1]
        if repeated:
            raise InvalidSettings(f"two metrics are called {repeated[0]!r}; give each its own name")
        for metric in self.metrics:
            _validate_metric(metric)
            if metric.mean and self.method != _KAYENTA:
                raise InvalidSettings(
                    f"{metric.name!r} has 'mean: true', which only 'method: kayenta' compares; "
                    f"leave it out, and name 'score_edges'"
                )

    def alpha_of(self, metric: MetricSpec) -> float:
        """Return the probability of a false *worse* that this metric may have."""
        return self.alpha * metric.share / sum(each.share for each in self.metrics)


def _validate_metric(metric: MetricSpec) -> None:
    if not 0.0 <= metric.max_increase < float("inf"):
        raise InvalidSettings(f"max_increase of {metric.name!r} must be 0 or more")
    if not 0.0 < metric.share < float("inf"):
        raise InvalidSettings(f"share of {metric.name!r} must be above 0")
    if not 0.0 < metric.quantile < 1.0:
        raise InvalidSettings(f"quantile of {metric.name!r} lies between 0 and 1")
    if metric.bounds != ANY_VALUE:
        _validate_bounds(metric)
    if metric.mean and metric.kind != _SCORE:
        raise InvalidSettings(
            f"{metric.name!r} is of kind {metric.kind!r}, and 'mean' is for kind {_SCORE!r}; "
            f"a mean of what callers report is of kind {_MEAN!r}"
        )
    if metric.relative and metric.direction != "increase" and metric.max_increase >= 1.0:
        raise InvalidSettings(
            f"{metric.name!r} would tolerate a decrease to nothing; lower max_increase"
        )


def _validate_bounds(metric: MetricSpec) -> None:
    if metric.kind != _MEAN:
        raise InvalidSettings(
            f"{metric.name!r} has a minimum or maximum, which are for values that callers report "
            f"and a {_MEAN} compares; a feedback_rate takes 0 to 1 in any case"
        )
    try:
        metric.bounds.validate()
    except InvalidRequest as error:
        raise InvalidSettings(f"of {metric.name!r} {error.message}") from error
