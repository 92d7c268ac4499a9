"""The table of codes is complete, and docs/errors.md is made from it."""

from pathlib import Path

from salver.core.errors import ERRORS_BY_CODE, Fault
from salver.gateway.statuses import STATUSES, errors_page

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def test_every_code_has_a_status_and_no_other_does() -> None:
    """A code without a status could not be answered."""
    assert set(STATUSES) == set(ERRORS_BY_CODE)


def test_statuses_follow_the_fault() -> None:
    """Callers' faults are 4xx (or not implemented), all others 5xx; 429 is a quota only."""
    for code, error in ERRORS_BY_CODE.items():
        status = STATUSES[code].http
        if error.side is Fault.CALLER:
            assert 400 <= status < 500 or status == 501
        else:
            assert status >= 500
        assert (status == 429) == (code == "quota_exceeded")


def test_the_page_is_up_to_date() -> None:
    """docs/errors.md is what the table prints."""
    assert PAGE.read_text() == errors_page()
