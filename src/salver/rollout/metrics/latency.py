"""A latency quantile: the share of answers above a threshold, and the ratio that follows.

The canary's threshold is the primary's times ``1 + max_increase``. A canary that is slower by
exactly that much then has the same share above its own as the primary has above the primary's,
at any time of day and whatever the threshold is: one that is not quite the quantile costs power,
never validity. Where control has set the canary's threshold higher (``latency_floor_s``), so much
more is the margin.
"""

import math

import msgspec
import numpy as np

from salver.core.errors import InvalidSettings
from salver.rollout.betting import estimate
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
from salver.rollout.tally import LATENCY_GROWTH, Floats, Layout, answered

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
    primary = np.sum([each.primary.bins for each in question.observed], axis=0)
    canary = np.sum([each.canary.bins for each in question.observed], axis=0)
    usual = sum(float(b.primary_sum.sum()) for b in sample.blocks) / sample.primary_n
    margin = _tolerated(question)

    def ratio(change: float) -> float:
        above = quantile(primary, 1.0 - min(max(usual + change, 0.0), 1.0))
        return (1.0 + margin) * quantile(primary, 1.0 - usual) / above - 1.0

    found = answer(sample, spec, question.alpha, 0.0)
    found = found._replace(low=ratio(found.low), high=ratio(found.high))
    plain = report(question, sample, found, verdict(spec, found, margin))
    return msgspec.structs.replace(
        plain,
        margin=margin,
        estimate=finite(ratio(estimate(sample))),
        canary=quantile(canary, spec.quantile),
        primary=quantile(primary, spec.quantile),
    )


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
    place = min(int(np.searchsorted(passed, wanted)), int(np.flatnonzero(bins)[-1]))
    before = float(passed[place] - bins[place])
    inside = (wanted - before) / float(bins[place]) if bins[place] else 1.0
    return float(_FASTEST_S * LATENCY_GROWTH ** (place - 0.5 + min(max(inside, 0.0), 1.0)))


def _slow(layout: Layout, rows: Floats, name: str) -> Floats:
    if name not in layout.latencies:
        raise InvalidSettings(f"the gateways do not count latencies for {name!r}")
    return np.asarray(rows[:, layout.slower_than(layout.latencies.index(name))].sum(axis=1))
