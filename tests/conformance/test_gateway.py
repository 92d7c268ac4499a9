"""Salver's own gateway conforms."""

from collections.abc import Iterator

import pytest

from salver.conformance.base import Verdict
from salver.conformance.runner import exit_code, run
from salver.conformance.session import opened
from salver.core.errors import InvalidRequest
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


def test_made_up_inputs_of_one_datatype_differ(server: RunningServer) -> None:
    """Else a server that takes one input for the other would pass."""
    with opened(f"http://127.0.0.1:{server.port}", "two") as subject:
        a, b = subject.request()["inputs"]
    assert (a["datatype"], a["shape"]) == (b["datatype"], b["shape"])
    assert a["data"] != b["data"]


def test_no_check_is_left_unasked(server: RunningServer) -> None:
    """With a model of each datatype, one of two inputs and one of wide rows, each is asked."""
    models = (*(f"identity-{name.lower()}" for name in DATATYPES), "two", "labelled")
    with opened(f"http://127.0.0.1:{server.port}", *models) as subject:
        outcomes = list(run(subject))
    # This gateway of the tests has no registry, hence no index of one.
    wrong = {o.check.name: o.reason for o in outcomes if o.verdict is not Verdict.PASSED}
    assert set(wrong) == {"extension.repository_index"}, wrong


def test_a_further_model_that_nobody_knows_is_named(server: RunningServer) -> None:
    """Else whoever misspelt it would believe that it was asked."""
    url = f"http://127.0.0.1:{server.port}"
    with pytest.raises(InvalidRequest, match="nobody"), opened(url, "two", "nobody"):
        pass
