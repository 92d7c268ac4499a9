"""Runs checks against one server and keeps how each came out."""

from collections.abc import Iterator, Sequence

from salver.conformance.base import Check, Failed, NotApplicable, Outcome, Verdict
from salver.conformance.catalog import checks
from salver.conformance.exchange import BrokenAnswer
from salver.conformance.subject import Subject

PASSED, BROKEN = 0, 1


def run(subject: Subject, chosen: Sequence[Check] = ()) -> Iterator[Outcome]:
    """Run the chosen checks, or all, one after the other, on a subject that is prepared."""
    for check in chosen or checks(grpc=subject.grpc is not None):
        yield run_one(subject, check)


def run_one(subject: Subject, check: Check) -> Outcome:
    """Run one check with the first of the subject's models that it can be asked of."""
    first = _run_with(subject, check)
    if first.verdict is not Verdict.NOT_APPLICABLE:
        return first
    others = (_run_with(other, check) for other in subject.others)
    return next((found for found in others if found.verdict is not first.verdict), first)


def _run_with(subject: Subject, check: Check) -> Outcome:
    subject.client.forget()
    verdict, reason = Verdict.PASSED, ""
    try:
        check.run(subject)
    except NotApplicable as why:
        verdict, reason = Verdict.NOT_APPLICABLE, str(why)
    except (Failed, BrokenAnswer) as why:
        verdict, reason = Verdict.FAILED, str(why)
    except Exception as why:  # what a strange answer does to one check must not end the others
        verdict, reason = Verdict.FAILED, f"the answer cannot be read ({why!r:.200})"
    return Outcome(check, verdict, reason, tuple(subject.client.exchanges))


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 1 if the server breaks what is required or what it named itself, else 0."""
    return BROKEN if any(outcome.breaks_conformance for outcome in outcomes) else PASSED
