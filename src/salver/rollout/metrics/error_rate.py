"""The share of requests that failed by the variant's fault."""

from salver.rollout.metrics.base import Question, compared, events
from salver.rollout.report import MetricReport
from salver.rollout.tally import ERRORS, REQUESTS


def error_rate(question: Question) -> MetricReport:
    """Compare failures per request."""
    sample = events(question, lambda _, rows: rows[:, REQUESTS], lambda _, rows: rows[:, ERRORS])
    return compared(question, sample)
