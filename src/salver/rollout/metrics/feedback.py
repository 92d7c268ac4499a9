"""What callers said of answers afterwards: a share of yes, or a mean."""

import math

from salver.core.errors import InvalidSettings
from salver.rollout.betting import Counts, Sample
from salver.rollout.metrics.base import Column, Question, compared, counts, events
from salver.rollout.report import MetricReport
from salver.rollout.tally import FEEDBACK_COLUMNS, Floats, Layout


def feedback_rate(question: Question) -> MetricReport:
    """Compare the share of feedback that is 1; values are 0 or 1."""
    name = question.spec.feedback_name
    return compared(question, events(question, _part(name, 0), _part(name, 1)))


def feedback_mean(question: Question) -> MetricReport:
    """Compare the mean of feedback of any size."""
    blocks = _column_counts(question, 1)
    squares = _column_counts(question, 2)
    units, total = _sums(blocks)
    _, square = _sums(squares)
    spread = square / units - (total / units) ** 2 if units else 0.0
    scale = math.sqrt(spread) if spread > 0.0 else 1.0
    sample = Sample(
        blocks, events=False, ratio=question.spec.relative, scale=scale, shrink=question.shrink
    )
    return compared(question, sample)


def _column_counts(question: Question, part: int) -> tuple[Counts, ...]:
    name = question.spec.feedback_name
    return counts(question.observed, _part(name, 0), _part(name, part))


def _part(name: str, part: int) -> Column:
    def column(layout: Layout, rows: Floats) -> Floats:
        if name not in layout.feedback:
            raise InvalidSettings(f"the gateways do not count feedback called {name!r}")
        return rows[
            :, layout.first_feedback + FEEDBACK_COLUMNS * layout.feedback.index(name) + part
        ]

    return column


def _sums(blocks: tuple[Counts, ...]) -> tuple[float, float]:
    units = sum(float(b.canary_n.sum() + b.primary_n.sum()) for b in blocks)
    return units, sum(float(b.canary_sum.sum() + b.primary_sum.sum()) for b in blocks)
