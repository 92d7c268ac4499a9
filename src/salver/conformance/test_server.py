"""Every check as a test of pytest."""

import pytest

from salver.conformance.base import Check, Verdict
from salver.conformance.report import table
from salver.conformance.runner import run_one
from salver.conformance.subject import Subject


def test_server(subject: Subject, check: Check) -> None:
    """The server does what the check demands; what is only recommended may fail."""
    outcome = run_one(subject, check)
    if outcome.verdict is Verdict.NOT_APPLICABLE:
        pytest.skip(outcome.reason)
    if outcome.breaks_conformance:
        lines = table([outcome], verbose=True, secret=subject.client.api_key)
        pytest.fail("\n".join(lines), pytrace=False)
    if outcome.verdict is Verdict.FAILED:
        pytest.xfail(outcome.reason)
