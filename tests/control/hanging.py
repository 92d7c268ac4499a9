"""A metric of a plug-in that does not come back before it is let go."""

import threading

from salver.rollout.metrics.base import Question
from salver.rollout.metrics.error_rate import error_rate
from salver.rollout.report import MetricReport

entered = threading.Semaphore(0)
let_go = threading.Event()


def hangs(question: Question) -> MetricReport:
    """Compare failures, once that is allowed."""
    entered.release()
    let_go.wait(120)
    return error_rate(question)


def ends(_question: Question) -> MetricReport:
    """Do what should end a whole process."""
    raise SystemExit("enough")
