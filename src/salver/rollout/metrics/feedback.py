"""What callers said of answers afterwards: a share of yes, or a mean."""

import math

import msgspec
import numpy as np
import numpy.typing as npt

from salver.core.errors import InvalidSettings
from salver.rollout.betting import Counts, Sample
from salver.rollout.metrics.base import Column, Question, compared, counts, events
from salver.rollout.report import MetricReport
from salver.rollout.tally import FEEDBACK_COLUMNS, Floats, Layout

_ROUNDING = 1 + 1e-9


def feedback_rate(question: Question) -> MetricReport:
    """Compare the share of feedback that is 1; values are 0 or 1.

    One value of any other size could hide what thousands of callers report, so that segments which
    hold one are left out, and the report says how many.
    """
    name = question.spec.feedback_name
    # Feedback is about answers, wherever they came from.
    sample = events(question, _share(name, 0), _share(name, 1), of_all=True)
    found = compared(question, sample)
    left_out = sum(
        int((~are_shares(_triple(name, layout, table.rows))).sum())
        for each in question.observed
        for layout, table in (
            (each.block.canary, each.canary),
            (each.block.primary, each.primary),
        )
    )
    if not left_out:
        return found
    reason = f"values outside 0 to 1 were reported; segments left out for it: {left_out}"
    return msgspec.structs.replace(found, reason="; ".join(filter(None, (found.reason, reason))))


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
    return counts(question.observed, _part(name, 0), _part(name, part), of_all=True)


def are_shares(sums: Floats) -> npt.NDArray[np.bool_]:
    """Tell of rows of outcomes, totals and squares which may be of values from 0 to 1."""
    count, total, squares = sums.T
    possible: npt.NDArray[np.bool_] = (
        (total >= 0.0) & (total <= count) & (squares <= total * _ROUNDING)
    )
    return possible


def _part(name: str, part: int) -> Column:
    return lambda layout, rows: _triple(name, layout, rows)[:, part]


def _share(name: str, part: int) -> Column:
    def column(layout: Layout, rows: Floats) -> Floats:
        sums = _triple(name, layout, rows)
        return np.where(are_shares(sums), sums[:, part], 0.0)

    return column


def _triple(name: str, layout: Layout, rows: Floats) -> Floats:
    """Return how many outcomes of a name there are by segment, their sums and their squares'."""
    if name not in layout.feedback:
        raise InvalidSettings(f"the gateways do not count feedback called {name!r}")
    first = layout.first_feedback + FEEDBACK_COLUMNS * layout.feedback.index(name)
    return rows[:, first : first + FEEDBACK_COLUMNS]


def _sums(blocks: tuple[Counts, ...]) -> tuple[float, float]:
    units = sum(float(b.canary_n.sum() + b.primary_n.sum()) for b in blocks)
    return units, sum(float(b.canary_sum.sum() + b.primary_sum.sum()) for b in blocks)
