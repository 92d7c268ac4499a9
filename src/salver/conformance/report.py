"""Outcomes as a table for people and as a document for programs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from salver.conformance.base import Level, Outcome, Verdict
from salver.conformance.catalog import SECTIONS
from salver.conformance.exchange import Exchange, masked, shown

_SIGNS = {Verdict.PASSED: "ok", Verdict.FAILED: "FAILED", Verdict.NOT_APPLICABLE: "-"}
_SHOWN_EXCHANGES = 6


def table(outcomes: Sequence[Outcome], *, verbose: bool, secret: str) -> Iterator[str]:
    """Yield the lines of the table, section by section, and the summary.

    What went over the wire follows each failed check, with ``verbose`` each check.
    """
    by_name = {outcome.check.name: outcome for outcome in outcomes}
    width = max((len(name) for name in by_name), default=0)
    for section in SECTIONS:
        found = [by_name[check.name] for check in section.checks if check.name in by_name]
        if not found:
            continue
        yield f"{section.title}"
        for outcome in found:
            yield from _lines(outcome, width, verbose=verbose, secret=secret)
        yield ""
    yield summary(outcomes)


def _lines(outcome: Outcome, width: int, *, verbose: bool, secret: str) -> Iterator[str]:
    check = outcome.check
    sign, level = _SIGNS[outcome.verdict], str(check.level)
    reason = masked(outcome.reason, secret) or check.demand
    yield f"  {sign:<6}  {check.name:<{width}}  {level:<11}  {reason}"
    if outcome.verdict is not Verdict.FAILED and not verbose:
        return
    reference = check.reference
    yield f"          demand: {check.demand}"
    yield f"          {reference.document}, {reference.heading}: “{reference.quote}”"
    for exchange in outcome.exchanges[-_SHOWN_EXCHANGES:]:
        yield from _exchange_lines(exchange, secret)


def _exchange_lines(exchange: Exchange, secret: str) -> Iterator[str]:
    view = shown(exchange, secret)
    yield f"          > {view['request']}"
    for name, value in view["request_headers"].items():
        yield f"          > {name}: {value}"
    if view["request_body"]:
        yield f"          > {view['request_body']}"
    yield f"          < {view['status'] or 'no status'}"
    for name, value in view["headers"].items():
        yield f"          < {name}: {value}"
    if view["body"]:
        yield f"          < {view['body']}"


def counts(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Return how many checks of each level came out how."""
    found: dict[str, dict[str, int]] = {}
    for level in Level:
        tally = Counter(o.verdict for o in outcomes if o.check.level is level)
        found[str(level)] = {str(verdict): tally[verdict] for verdict in Verdict}
    return found


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return one line with the counts of each level."""
    parts = []
    for level, tally in counts(outcomes).items():
        words = ", ".join(f"{number} {verdict}" for verdict, number in tally.items() if number)
        parts.append(f"{level}: {words or 'none'}")
    return "; ".join(parts)


def document(outcomes: Sequence[Outcome], *, verbose: bool, secret: str) -> dict[str, Any]:
    """Return everything for programs; exchanges as in the table."""
    return {
        "conforms": not any(outcome.breaks_conformance for outcome in outcomes),
        "counts": counts(outcomes),
        "checks": [_entry(outcome, verbose=verbose, secret=secret) for outcome in outcomes],
    }


def _entry(outcome: Outcome, *, verbose: bool, secret: str) -> dict[str, Any]:
    check, reference = outcome.check, outcome.check.reference
    entry: dict[str, Any] = {
        "name": check.name,
        "level": str(check.level),
        "verdict": str(outcome.verdict),
        "reason": masked(outcome.reason, secret),
        "demand": check.demand,
        "document": reference.document,
        "heading": reference.heading,
        "quote": reference.quote,
    }
    if verbose or outcome.verdict is Verdict.FAILED:
        recent = outcome.exchanges[-_SHOWN_EXCHANGES:]
        entry["exchanges"] = [shown(exchange, secret) for exchange in recent]
    return entry
