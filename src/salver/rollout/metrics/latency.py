"""A latency quantile: the share of answers above a threshold, and the ratio that follows.

The canary's threshold is the primary's times ``1 + max_increase``. A canary that is slower by
exactly that much then has the same share above its own as the primary has above the primary's,
at any time of day and whatever the threshold is: one that is not quite the quantile costs power,
never validity. Where control has set the canary's threshold higher (``latency_floor_s``), so much
more is the margin.

A share of nothing or of all says on which side of the threshold the arm lies, and not how far: an
end of the interval whose share is one of these is open.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from salver.core.errors import InvalidSettings
from salver.rollout.betting import Sample
from salver.rollout.evidence import Observed
from salver.rollout.metrics.base import (
    Question,
    answer,
    events,
    finite,
    nothing,
    report,
    verdict,
)
from salver.rollout.report import MetricReport
from salver.rollout.tally import LATENCY_BINS, LATENCY_GROWTH, Floats, Layout, answered

_FASTEST_S = 1e-5


def latency(question: Question) -> MetricReport:
    """Compare a latency quantile of answered requests; the change is the ratio less 1.

    Raises ``InvalidSettings`` for a policy that is not about a relative increase.
    """
    spec = question.spec
    if not spec.relative or spec.direction != "increase":
        raise InvalidSettings(f"latency {spec.name!r} is judged by a relative increase")
    sample = events(
        question,
        lambda _, rows: answered(rows),
        lambda layout, rows: _slow(layout, rows, spec.name),
        ratio=False,
    )
    missing = nothing(question, sample)
    if missing is not None:
        return missing
    margin = _tolerated(question)
    canary, primary = _met(question.observed)
    scale = _Scale(primary, _usual(sample), margin)
    found = answer(sample, spec, question.alpha, 0.0)
    found = found._replace(low=scale.at_least(found.low), high=scale.at_most(found.high))
    seen = quantile(canary, spec.quantile) / quantile(primary, spec.quantile) - 1.0
    plain = report(question, sample, found, verdict(spec, found, margin))
    canaries, primaries = _all(question.observed)
    return msgspec.structs.replace(
        plain,
        margin=margin,
        estimate=finite(min(max(seen, found.low), found.high)) if math.isfinite(seen) else None,
        canary=quantile(canaries, spec.quantile),
        primary=quantile(primaries, spec.quantile),
    )


class _Scale(NamedTuple):
    """Translates a change of the slow share into one of latency, by the primary's histogram.

    It is the one of ``_met``, as a change is one within blocks. ``usual`` is the primary's slow
    share. Where it is nothing or all, the primary lies on one side of its threshold, and how far
    from it is unknown.
    """

    primary: Floats
    usual: float
    margin: float

    def at_least(self, change: float) -> float:
        """Return the lower end; -1, the least that there is, where it is open."""
        if self.usual + change <= 0.0 or self.usual >= 1.0:
            return -1.0
        return self._ratio(change) - 1.0

    def at_most(self, change: float) -> float:
        """Return the upper end; infinity where it is open."""
        if self.usual + change >= 1.0 or self.usual <= 0.0:
            return math.inf
        return self._ratio(change) - 1.0

    def _ratio(self, change: float) -> float:
        share = min(max(self.usual + change, 0.0), 1.0)
        above = quantile(self.primary, 1.0 - share)
        return (1.0 + self.margin) * quantile(self.primary, 1.0 - self.usual) / above


def _all(observed: Sequence[Observed]) -> tuple[Floats, Floats]:
    """Return the histograms of canary and primary."""
    canary = np.sum([each.canary.bins for each in observed], axis=0)
    return canary, np.sum([each.primary.bins for each in observed], axis=0)


def _met(observed: Sequence[Observed]) -> tuple[Floats, Floats]:
    """Return the histograms of canary and primary where they met; empty where they never did.

    The primary's blocks count as much as the canary's, so that a time of day in which one arm had
    more traffic does not look like a change.
    """
    canary, primary = np.zeros(LATENCY_BINS), np.zeros(LATENCY_BINS)
    for each in observed:
        if each.canary.bins.any() and each.primary.bins.any():
            canary += each.canary.bins
            primary += each.primary.bins * (each.canary.bins.sum() / each.primary.bins.sum())
    return canary, primary


def _usual(sample: Sample) -> float:
    """Return the primary's slow share where it met the canary, weighed likewise; NaN if never."""
    expected = units = 0.0
    for block in sample.blocks:
        canary_n, primary_n = float(block.canary_n.sum()), float(block.primary_n.sum())
        if canary_n and primary_n:
            expected += float(block.primary_sum.sum()) / primary_n * canary_n
            units += canary_n
    return expected / units if units else math.nan


def _tolerated(question: Question) -> float:
    """Return what the thresholds of the newest block tolerate, where it is more than was asked for.

    Control tolerates more where the primary answers in less time than anybody cares about.
    """
    block, spec = question.observed[-1].block, question.spec
    index = block.primary.latencies.index(spec.name)
    ratio = block.canary.thresholds_s[index] / block.primary.thresholds_s[index]
    return max(spec.max_increase, ratio - 1.0)


def quantile(bins: Floats, share: float) -> float:
    """Return the latency in seconds below which ``share`` of the counts lie, within a bin's width.

    Half a bin more or less: the bins grow by 5 %, and positions within one are interpolated.
    """
    passed = np.cumsum(bins)
    if not passed[-1]:
        return math.nan
    wanted = share * float(passed[-1])
    filled = np.flatnonzero(bins)
    place = min(max(int(np.searchsorted(passed, wanted)), int(filled[0])), int(filled[-1]))
    before = float(passed[place] - bins[place])
    inside = (wanted - before) / float(bins[place])
    return float(_FASTEST_S * LATENCY_GROWTH ** (place - 0.5 + min(max(inside, 0.0), 1.0)))


def _slow(layout: Layout, rows: Floats, name: str) -> Floats:
    if name not in layout.latencies:
        raise InvalidSettings(f"the gateways do not count latencies for {name!r}")
    return np.asarray(rows[:, layout.slower_than(layout.latencies.index(name))].sum(axis=1))
