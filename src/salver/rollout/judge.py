"""The decision table of a rollout: the first line that applies decides.

========================================================  ==========
what is seen                                              what is done
========================================================  ==========
the canary's workers crash or cannot load it              roll back
there is no analysis                                      pause
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
a person wants to be asked                                pause
otherwise                                                 promote
========================================================  ==========

Only *better* and *equivalent* ever count as success. Nothing seen is never one.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from salver.rollout.policy import Policy
from salver.rollout.report import MetricReport, Report, Verdict


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
    without a request to the canary. ``failure`` says what is wrong with the canary's workers.
    """

    last_step: bool
    elapsed_s: float
    quiet_s: float
    auto: bool = True
    failure: str = ""


class _Case(NamedTuple):
    report: Report
    policy: Policy
    standing: Standing


def decide(report: Report | None, policy: Policy, standing: Standing) -> Decision:
    """Return what to do; ``report`` is None when the analysis itself failed."""
    if standing.failure:
        return Decision(Kind.ROLL_BACK, f"the canary does not stay up: {standing.failure}")
    if report is None:
        return Decision(Kind.PAUSE, "the analysis failed, so nothing is known of the canary")
    case = _Case(report, policy, standing)
    for rule, kind in _TABLE:
        reason = rule(case)
        if reason:
            return Decision(kind, reason)
    return Decision(Kind.PROMOTE, "every critical metric is equivalent or better")


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
    return _named(m for m in case.report.metrics if m.critical and m.verdict is Verdict.WORSE)


def _unknown(case: _Case) -> str:
    failed = [m for m in case.report.metrics if m.verdict is Verdict.FAILED]
    if failed:
        return f"{failed[0].name} could not be computed: {failed[0].reason}"
    known = {m.name for m in case.report.metrics}
    missing = [spec.name for spec in case.policy.metrics if spec.name not in known]
    if missing and case.report.warm:
        return f"{', '.join(missing)} is missing from the analysis"
    return ""


def _worse(case: _Case) -> str:
    return _named(m for m in case.report.metrics if m.verdict is Verdict.WORSE)


def _too_long(case: _Case) -> str:
    if case.standing.elapsed_s < case.policy.max_duration_s:
        return ""
    open_ones = [m.name for m in case.report.metrics if m.verdict is Verdict.NOT_ENOUGH]
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
    if case.policy.promote_on == "no_worse":
        return ""
    waiting = [m.name for m in case.report.metrics if m.critical and not _shown(m)]
    return f"waiting until {', '.join(waiting)} is known to be no worse" if waiting else ""


def _ask_a_person(case: _Case) -> str:
    return "" if case.standing.auto else "ready to be promoted; a person decides"


def _shown(metric: MetricReport) -> bool:
    return metric.verdict in (Verdict.BETTER, Verdict.EQUIVALENT)


def _named(worse: Iterable[MetricReport]) -> str:
    return "; ".join(
        f"{m.name} is worse by {_size(m.estimate)}, at least {_size(m.low)} "
        f"where {m.margin:g} is tolerated"
        for m in worse
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
    (_ask_a_person, Kind.PAUSE),
)
