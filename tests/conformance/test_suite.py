"""The suite passes a right server and finds every defect of a broken one."""

import pytest

from salver.conformance.base import Level, Verdict
from salver.conformance.catalog import checks
from salver.conformance.runner import exit_code, run, run_one
from salver.conformance.session import opened
from tests.conformance.broken_server import Break, TinyServer
from tests.conformance.more_breaks import BREAKS
from tests.conformance.oip_model import MODEL

CHECKS = {check.name: check for check in checks(grpc=False)}


def test_a_right_server_passes_every_check() -> None:
    """A right server with every datatype and extension passes all; nothing is left unasked."""
    with TinyServer() as server, opened(server.url, MODEL) as subject:
        outcomes = list(run(subject))
    wrong = {o.check.name: o.reason for o in outcomes if o.verdict is not Verdict.PASSED}
    assert wrong == {}
    assert [outcome.check.name for outcome in outcomes] == list(CHECKS)
    assert exit_code(outcomes) == 0


@pytest.mark.parametrize("name", BREAKS)
def test_a_defect_is_found(name: str) -> None:
    """The check that is meant for a defect fails on a server that has it, and says why."""
    defect = BREAKS[name]
    with TinyServer(defect) as server, opened(server.url, MODEL) as subject:
        found = run_one(subject, CHECKS[defect.check])
    assert (found.verdict, bool(found.reason)) == (Verdict.FAILED, True), found.reason
    assert exit_code([found]) == (found.check.level is not Level.RECOMMENDED)


def test_a_server_that_refuses_everything_does_not_pass() -> None:
    """Where the right request is refused, no refusal of a wrong one counts."""
    defect = Break(
        "infer.answers", frozenset(), "infer", lambda reply: setattr(reply, "status", 400)
    )
    with TinyServer(defect) as server, opened(server.url, MODEL) as subject:
        outcomes = {outcome.check.name: outcome for outcome in run(subject)}
    assert outcomes["infer.answers"].verdict is Verdict.FAILED
    for name, outcome in outcomes.items():
        if name.startswith(("refusal.", "binary.", "datatype.")) and name != "refusal.method":
            assert outcome.verdict is Verdict.NOT_APPLICABLE, name
            assert "--example" in outcome.reason
    assert exit_code(list(outcomes.values())) == 1


def test_every_check_has_a_defect_that_it_finds() -> None:
    """No check is there that was never seen to fail."""
    assert set(CHECKS) == {defect.check for defect in BREAKS.values()}


def test_every_check_says_where_it_comes_from() -> None:
    """Each check has a name of its own, a demand, and a short quote of a named document."""
    every = checks(grpc=True)
    assert len(every) == len({check.name for check in every})
    for check in every:
        assert check.demand.endswith(".")
        assert check.reference.document
        assert check.reference.heading
        assert 0 < len(check.reference.quote) <= 140
