"""The share of requests that the variant refused as the caller's mistake.

Both arms get the same mistakes, by chance; what the canary refuses beyond that is its own doing:
a step, a declared range or a size that takes less than the primary's. Nothing is remembered of
refused requests, so all that an arm got are its units.
"""

from salver.rollout.metrics.base import Question, compared, events
from salver.rollout.report import MetricReport
from salver.rollout.tally import REFUSED, REQUESTS


def refusal_rate(question: Question) -> MetricReport:
    """Compare refusals per request."""
    sample = events(
        question, lambda _, rows: rows[:, REQUESTS], lambda _, rows: rows[:, REFUSED], of_all=True
    )
    return compared(question, sample)
