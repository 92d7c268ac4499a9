"""The decision tables of a rollout: in each the first line that applies decides.

At every look, whatever was compared (``at_once``, then ``stuck``; a paused one cannot be stuck):

========================================================  ==========
what is seen                                              what is done
========================================================  ==========
the canary cannot be loaded                               roll back
processes that ran it ended, again and again              roll back
a comparison says so, see below, after the preparation    roll back
the primary cannot answer                                 pause
the canary cannot answer in the time for it               pause
the rollout has taken too long                            pause
the canary gets no requests                               pause
there is no analysis                                      pause
otherwise                                                 as compared
========================================================  ==========

What a comparison of the arms says (``decide``):

========================================================  ==========
what is seen                                              what is done
========================================================  ==========
the canary gets no requests                               pause
the arms did not get the traffic that their weights say   pause
a metric that is critical is worse                        roll back
a metric could not be computed, or is missing             pause
a metric that is not critical is worse                    pause
the rollout has taken too long                            pause
the warm-up is not over                                   hold
the canary had too few requests in this step              hold
the next step is not the last                             advance
a critical metric is not yet known to be no worse         hold
of a metric nothing was counted                           pause
otherwise                                                 promote
========================================================  ==========

What copies of requests say of a blue-green version, after their warm-up (``of_copies``):

========================================================  ==========
what is seen                                              what is done
========================================================  ==========
more copies fail than is tolerated                        roll back
more copies are late, or answer otherwise, than that      pause
no copy was answered yet                                  hold
it is not yet known that so few fail                      hold
no answers were compared                                  pause
too many of them differ                                   pause
otherwise                                                 promote
========================================================  ==========

A promotion (``asks_a_person``): a person wants to be asked, or has to approve: pause; otherwise it
is done. Only *better* and *equivalent* ever count as success. Nothing seen is never one.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from salver.rollout.counts import BETTER, EQUIVALENT, WORSE, Metric
from salver.rollout.policy import Policy
from salver.rollout.report import MetricReport, Report, Verdict
from salver.rollout.states import CRASHES, PREPARING, PRIMARY_AWAY_S, Rollout, Tick

_LAX = "no_worse"


class Kind(StrEnum):
    """What is done next."""

    HOLD = "hold"
    ADVANCE = "advance"
    PAUSE = "pause"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class Decision(msgspec.Struct, frozen=True):
    """What is done, and why in words for a person."""

    kind: Kind
    reason: str


class Standing(msgspec.Struct, frozen=True):
    """Where a rollout stands, as control knows it.

    ``last_step`` says that the next step gives the canary all traffic. ``quiet_s`` is the time
    without a request to the canary.
    """

    last_step: bool
    elapsed_s: float
    quiet_s: float


class _Case(NamedTuple):
    report: Report
    policy: Policy
    standing: Standing


def at_once(rollout: Rollout, seen: Tick) -> str:
    """Return why the canary is rolled back whatever was compared, or nothing."""
    if seen.failure:
        return f"it cannot be loaded: {seen.failure}"
    if rollout.crashes >= CRASHES:
        return f"processes that ran it ended {rollout.crashes} times"
    return ""


def stuck(rollout: Rollout, seen: Tick) -> str:
    """Return why a person has to look, or nothing."""
    policy = rollout.policy
    if rollout.away_s >= PRIMARY_AWAY_S:
        return f"{rollout.source}, the primary, cannot answer"
    if rollout.step == PREPARING:
        if rollout.step_s >= policy.prepare_s and not seen.is_ready:
            return f"{rollout.target} cannot answer after {rollout.step_s:.0f} s"
        return ""
    if policy.max_duration_s and rollout.running_s >= policy.max_duration_s:
        return f"it has taken {rollout.running_s:.0f} s"
    # While an analysis goes on nobody knows whether there were requests.
    is_open = seen.requests is None and seen.finding is None and not seen.problem
    if not is_open and rollout.wants_requests and rollout.quiet_s >= policy.no_traffic_s:
        return f"the canary has had no request for {rollout.quiet_s:.0f} s"
    return seen.problem


def asks_a_person(rollout: Rollout) -> bool:
    """Tell whether a promotion waits for somebody."""
    return not (rollout.policy.auto and rollout.is_approved)


def of_copies(failed: Metric, slow: Metric, differs: Metric) -> Decision:
    """Return what to do: nothing is promoted that was not shown to do no harm."""
    for metric in (failed, slow, differs):
        if metric.verdict == WORSE:
            return Decision(Kind.ROLL_BACK if metric.critical else Kind.PAUSE, metric.words())
    if not failed.n_canary:
        return Decision(Kind.HOLD, "no copy was answered yet")
    if failed.verdict not in (EQUIVALENT, BETTER):
        return Decision(
            Kind.HOLD,
            f"waiting until failed_copies is known to be no worse: at most {failed.high:.3g} of "
            f"{failed.n_canary} copies fail, {failed.margin:g} is tolerated",
        )
    if differs.margin < 1 and differs.estimate is None:
        return Decision(Kind.PAUSE, "whether the copies' answers agree is not known")
    if (differs.estimate or 0.0) > differs.margin:
        return Decision(
            Kind.PAUSE,
            f"{differs.estimate:.3g} of the copies' answers differ, {differs.margin:g} is "
            "tolerated",
        )
    return Decision(Kind.PROMOTE, "failed_copies is equivalent and the answers agree")


def decide(report: Report, policy: Policy, standing: Standing) -> Decision:
    """Return what the comparison of the arms leads to."""
    case = _Case(report, policy, standing)
    for rule, kind in _TABLE:
        reason = rule(case)
        if reason:
            return Decision(kind, reason)
    return Decision(Kind.PROMOTE, _proven(report))


def _proven(report: Report) -> str:
    open_ones = [m.name for m in report.metrics if m.critical and not _shown(m)]
    if not open_ones:
        return "every critical metric is equivalent or better"
    return f"no critical metric is worse, and of {', '.join(open_ones)} no more is asked"


def _no_traffic(case: _Case) -> str:
    if case.standing.quiet_s < case.policy.no_traffic_s:
        return ""
    return f"the canary has had no request for {case.standing.quiet_s:.0f} s"


def _wrong_ratio(case: _Case) -> str:
    ratio = case.report.sample_ratio
    if ratio.holds:
        return ""
    return (
        f"the canary got {ratio.observed:.2%} of requests where its weights say "
        f"{ratio.expected:.2%}; find out what loses or adds requests before comparing"
    )


def _critical_worse(case: _Case) -> str:
    return _named(m for m in case.report.metrics if m.critical and m.verdict == Verdict.WORSE)


def _unknown(case: _Case) -> str:
    failed = [m for m in case.report.metrics if m.verdict == Verdict.FAILED]
    if failed:
        return f"{failed[0].name} could not be computed: {failed[0].reason}"
    known = {m.name for m in case.report.metrics}
    missing = [spec.name for spec in case.policy.metrics if spec.name not in known]
    if missing and case.report.warm:
        return f"{', '.join(missing)} is missing from the analysis"
    return ""


def _worse(case: _Case) -> str:
    return _named(m for m in case.report.metrics if m.verdict == Verdict.WORSE)


def _too_long(case: _Case) -> str:
    if case.standing.elapsed_s < case.policy.max_duration_s:
        return ""
    open_ones = [m.name for m in case.report.metrics if m.verdict == Verdict.NOT_ENOUGH]
    return f"{case.standing.elapsed_s:.0f} s have passed without a decision" + (
        f"; not enough data for {', '.join(open_ones)}" if open_ones else ""
    )


def _cold(case: _Case) -> str:
    return "" if case.report.warm else "the canary is warming up"


def _too_few(case: _Case) -> str:
    have, need = case.report.step_requests, case.policy.min_requests
    return "" if have >= need else f"{have} of {need} requests of this step seen"


def _next_step(case: _Case) -> str:
    return "" if case.standing.last_step else "no metric is worse; the next step may begin"


def _unproven(case: _Case) -> str:
    policy = case.policy
    lax = {spec.name for spec in policy.metrics if (spec.promote_on or policy.promote_on) == _LAX}
    waiting = [
        m.name for m in case.report.metrics if m.critical and m.name not in lax and not _shown(m)
    ]
    return f"waiting until {', '.join(waiting)} is known to be no worse" if waiting else ""


def _uncounted(case: _Case) -> str:
    names = [m.name for m in case.report.metrics if not _shown(m) and not _has_counts(m)]
    return f"nothing was counted of {', '.join(names)}" if names else ""


def _has_counts(metric: MetricReport) -> bool:
    return metric.n_canary > 0 and metric.n_primary > 0


def _shown(metric: MetricReport) -> bool:
    return metric.verdict in (Verdict.BETTER, Verdict.EQUIVALENT)


def _named(worse: Iterable[MetricReport]) -> str:
    return "; ".join(map(_harm, worse))


def _harm(metric: MetricReport) -> str:
    """Say how much worse: a fall is as long as it is deep, and its least is the upper end."""
    change, least = metric.estimate, metric.low
    known = metric.high if change is None else change
    if known is not None and known < 0:
        change, least = (None if end is None else -end for end in (change, metric.high))
    why = f" ({metric.reason})" if metric.reason else ""
    return (
        f"{metric.name} is worse by {_size(change)}, at least {_size(least)} "
        f"where {metric.margin:g} is tolerated{why}"
    )


def _size(value: float | None) -> str:
    return "an unknown amount" if value is None else f"{value:.3g}"


_TABLE: tuple[tuple[Callable[[_Case], str], Kind], ...] = (
    (_no_traffic, Kind.PAUSE),
    (_wrong_ratio, Kind.PAUSE),
    (_critical_worse, Kind.ROLL_BACK),
    (_unknown, Kind.PAUSE),
    (_worse, Kind.PAUSE),
    (_too_long, Kind.PAUSE),
    (_cold, Kind.HOLD),
    (_too_few, Kind.HOLD),
    (_next_step, Kind.ADVANCE),
    (_unproven, Kind.HOLD),
    (_uncounted, Kind.PAUSE),
)
