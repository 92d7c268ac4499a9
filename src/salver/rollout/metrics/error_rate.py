"""The share of requests that failed by the variant's fault, of those that it was asked for."""

from salver.rollout.metrics.base import Question, compared, events
from salver.rollout.report import MetricReport
from salver.rollout.tally import ERRORS, ran


def error_rate(question: Question) -> MetricReport:
    """Compare failures per request."""
    sample = events(question, lambda _, rows: ran(rows), lambda _, rows: rows[:, ERRORS])
    return compared(question, sample)
