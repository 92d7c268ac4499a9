"""What every metric does: take counts out of tables, compare them, and say a verdict."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from salver.rollout.betting import Counts, Sample, bound, estimate, log_evidence
from salver.rollout.evidence import Observed
from salver.rollout.policy import MetricSpec
from salver.rollout.report import MetricReport, Verdict
from salver.rollout.tally import KEYED, POINTS, REMEMBERED, Floats, Layout, ran

Column = Callable[[Layout, Floats], Floats]
"""Takes one number per segment out of a table's rows."""

Transform = Callable[[float], float]


class Question(NamedTuple):
    """What a metric's function is asked: compare these blocks, with at most ``alpha`` of error."""

    observed: Sequence[Observed]
    spec: MetricSpec
    alpha: float
    shrink: bool = True

    @property
    def alone(self) -> bool:
        """Whether no request had a routing key, so that each is a unit of evidence by itself."""
        arms = [table for each in self.observed for table in (each.canary, each.primary)]
        return not any(table.rows[:, KEYED].any() for table in arms)


Metric = Callable[[Question], MetricReport]


def counts(
    observed: Sequence[Observed], units: Column, total: Column, *, of_all: bool = False
) -> tuple[Counts, ...]:
    """Return a metric's units and sums, block by block.

    ``of_all`` says that units are all requests of an arm, also those answered from memory.
    """
    return tuple(
        Counts(
            each.block.weight / POINTS if of_all else share_that_ran(each),
            units(each.block.canary, each.canary.rows),
            total(each.block.canary, each.canary.rows),
            units(each.block.primary, each.primary.rows),
            total(each.block.primary, each.primary.rows),
        )
        for each in observed
    )


def share_that_ran(each: Observed) -> float:
    """Return the canary's share of the requests that versions were asked for.

    It is the block's weight, unless some were answered from memory: the arms remember unlike parts
    of their requests, so chance gave the canary another share of the others. Given how many each
    has, which of them are the canary's is a draw without replacement, and a bet on independent
    draws of this share is one that such a draw wins no more often.
    """
    weight = each.block.weight / POINTS
    if not any(table.rows[:, REMEMBERED].any() for table in (each.canary, each.primary)):
        return weight
    canary, primary = float(ran(each.canary.rows).sum()), float(ran(each.primary.rows).sum())
    return canary / (canary + primary) if canary and primary else weight


def events(
    question: Question,
    units: Column,
    total: Column,
    *,
    ratio: bool | None = None,
    of_all: bool = False,
) -> Sample:
    """Return a metric that counts events; ``ratio`` where it is not what the spec says.

    ``of_all`` is as in ``counts``.
    """
    return Sample(
        counts(question.observed, units, total, of_all=of_all),
        ratio=question.spec.relative if ratio is None else ratio,
        shrink=question.shrink,
        alone=question.alone,
    )


class Answer(NamedTuple):
    """Where a metric's change lies, and whether harm beyond the margin is shown."""

    low: float
    high: float
    harmful: bool


def harmful(sample: Sample, spec: MetricSpec, alpha: float, margin: float) -> bool:
    """Return whether a change beyond the margin is shown, in a direction that does harm."""
    needed = -math.log(_side(spec, alpha))
    up = spec.direction != "decrease" and log_evidence(sample, margin, 1) >= needed
    return up or (spec.direction != "increase" and log_evidence(sample, -margin, -1) >= needed)


def answer(sample: Sample, spec: MetricSpec, alpha: float, margin: float) -> Answer:
    """Compare one sample with a margin; each end of the interval holds at ``alpha`` always."""
    side = _side(spec, alpha)
    return Answer(
        bound(sample, 1, side), bound(sample, -1, side), harmful(sample, spec, alpha, margin)
    )


def _side(spec: MetricSpec, alpha: float) -> float:
    return alpha / 2.0 if spec.direction == "either" else alpha


def verdict(spec: MetricSpec, found: Answer, margin: float) -> Verdict:
    """Return what the interval says about the change."""
    if found.harmful:
        return Verdict.WORSE
    if spec.direction == "either":
        inside = found.low >= -margin and found.high <= margin
        return Verdict.EQUIVALENT if inside else Verdict.NOT_ENOUGH
    harm_high = found.high if spec.direction == "increase" else -found.low
    if harm_high < 0.0:
        return Verdict.BETTER
    return Verdict.EQUIVALENT if harm_high <= margin else Verdict.NOT_ENOUGH


def compared(question: Question, sample: Sample) -> MetricReport:
    """Return the report of a metric that is a share or a mean."""
    spec = question.spec
    missing = nothing(question, sample)
    if missing is not None:
        return missing
    found = answer(sample, spec, question.alpha, spec.max_increase)
    return report(question, sample, found, verdict(spec, found, spec.max_increase))


def nothing(question: Question, sample: Sample) -> MetricReport | None:
    """Return a report that says which arm has no counts; None when both have."""
    arms = [("canary", sample.canary_n), ("primary", sample.primary_n)]
    empty = [name for name, units in arms if not units]
    if not empty:
        return None
    spec = question.spec
    return MetricReport(
        spec.name,
        Verdict.NOT_ENOUGH,
        spec.critical,
        spec.max_increase,
        spec.relative,
        question.alpha,
        n_canary=int(sample.canary_n),
        n_primary=int(sample.primary_n),
        reason=f"nothing was counted of the {' and the '.join(empty)}",
    )


def report(
    question: Question, sample: Sample, found: Answer, said: Verdict, reason: str = ""
) -> MetricReport:
    """Return a report in the unit of the sample."""
    spec = question.spec
    return MetricReport(
        spec.name,
        said,
        spec.critical,
        spec.max_increase,
        spec.relative,
        question.alpha,
        estimate=finite(estimate(sample)),
        low=finite(found.low),
        high=finite(found.high),
        canary=_level([(b.canary_n, b.canary_sum) for b in sample.blocks]),
        primary=_level([(b.primary_n, b.primary_sum) for b in sample.blocks]),
        n_canary=int(sample.canary_n),
        n_primary=int(sample.primary_n),
        reason=reason,
    )


def finite(value: float) -> float | None:
    """Return a value as JSON can hold it."""
    return value if math.isfinite(value) else None


def stability_index(canary: Floats, primary: Floats) -> float:
    """Return the population stability index of two histograms; a description, not a test.

    Half a count is added to every bin, so that an empty one stays finite.
    """
    p, q = (np.asarray((h + 0.5) / (h.sum() + 0.5 * len(h))) for h in (canary, primary))
    return float(((p - q) * np.log(p / q)).sum())


def _level(arms: list[tuple[Floats, Floats]]) -> float | None:
    units = sum(float(n.sum()) for n, _ in arms)
    return sum(float(total.sum()) for _, total in arms) / units if units else None
