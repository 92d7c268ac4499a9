"""Salver's own gateway conforms."""

from collections.abc import Iterator

import pytest

from salver.conformance.base import Verdict
from salver.conformance.runner import exit_code, run
from salver.conformance.session import opened
from tests.gateway.inprocess import DATATYPES, RunningServer


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Give a gateway that the module shares."""
    with RunningServer() as running:
        yield running


@pytest.mark.parametrize("model", [*(f"identity-{name.lower()}" for name in DATATYPES), "two"])
def test_the_gateway_conforms(server: RunningServer, model: str) -> None:
    """Every check passes with a model of every datatype, also what is only recommended."""
    with opened(f"http://127.0.0.1:{server.port}", model) as subject:
        outcomes = list(run(subject))
    failed = {o.check.name: o.reason for o in outcomes if o.verdict is Verdict.FAILED}
    assert failed == {}
    assert exit_code(outcomes) == 0
