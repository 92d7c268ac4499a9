"""Several shares that are one metric: all classes, or all cuts through the scores."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from salver.core.errors import InvalidSettings
from salver.rollout.betting import Sample, estimate, log_evidence
from salver.rollout.metrics.base import Question, answer, nothing, report, verdict
from salver.rollout.report import MetricReport, Verdict


def together(members: Sequence[Sample], margin: float) -> float:
    """Return the log of the mean evidence, over members and directions, of a move too far."""
    logs = np.array(
        [log_evidence(each, sign * margin, sign) for each in members for sign in (1, -1)]
    )
    peak = float(logs.max())
    if peak == -math.inf:
        return peak
    return peak + math.log(float(np.mean(np.exp(logs - peak))))


def family(question: Question, members: Mapping[str, Sample]) -> MetricReport:
    """Compare all shares at once: *worse* when any moves by more than the margin, either way.

    The evidence is the mean over members and directions, which is valid however they depend on
    each other. The interval is that of the member that moved most.
    """
    spec = question.spec
    if spec.relative or spec.direction != "either":
        raise InvalidSettings(f"{spec.name!r} is judged by absolute changes in either direction")
    first = next(iter(members.values()))
    missing = nothing(question, first)
    if missing is not None:
        return missing
    margin = spec.max_increase
    each = question.alpha / len(members)
    moved = max(members, key=lambda name: abs(estimate(members[name])))
    found = {name: answer(members[name], spec, each, margin) for name in members}
    said = {verdict(spec, answered, margin) for answered in found.values()}
    if together(list(members.values()), margin) >= -math.log(question.alpha):
        final = Verdict.WORSE
    else:
        final = Verdict.EQUIVALENT if said == {Verdict.EQUIVALENT} else Verdict.NOT_ENOUGH
    plain = report(question, members[moved], found[moved], final, reason=f"most moved: {moved}")
    return msgspec.structs.replace(plain, extra={name: estimate(m) for name, m in members.items()})
