"""From counts that only grow, reported now and then, to what each endpoint used and when."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from salver.scale.autoscale.history import History, Piece, Usage

_S_NS = 1_000_000_000
_NOTHING = Usage()


class Report(NamedTuple):
    """What one gateway has counted since it started, by variant.

    ``identity`` is its place, ``incarnation`` this very process; ``arrival_ns`` is when the report
    came, ``number`` its own count of reports.
    """

    identity: str
    incarnation: str
    number: int
    arrival_ns: int
    usage: Mapping[str, Usage]


class Known(NamedTuple):
    """How much is known at a time: everything up to ``until_ns``, if ``complete``.

    ``problem`` says what is missing.
    """

    until_ns: int | None
    problem: str

    @property
    def complete(self) -> bool:
        """Tell whether every gateway is heard of."""
        return not self.problem


class Telemetry:
    """Keeps the histories of endpoints.

    A gateway's first report says how far it had counted, and not since when; what it counted
    before is left out, and the histories of what it had counted begin then. A gateway that is not
    heard of any more is missed for ``window_s``, unless another process has taken its place.
    """

    def __init__(self, window_s: float, stale_s: float) -> None:
        self.histories: dict[str, History] = {}
        self._window_ns = round(window_s * _S_NS)
        self._stale_ns = round(stale_s * _S_NS)
        self._last: dict[str, Report] = {}
        self._missing: dict[str, int] = {}

    def clear(self) -> None:
        """Forget everything, as after a restart."""
        self.histories, self._last, self._missing = {}, {}, {}

    def take(
        self, reports: Sequence[Report], variants: Mapping[str, Collection[str]], now_ns: int
    ) -> None:
        """Take the newest report of each gateway that is connected.

        ``variants`` are those that each endpoint is answered by at present.
        """
        self.histories = {name: self.histories.get(name) or History(now_ns) for name in variants}
        for report in reports:
            before = self._last.get(report.identity)
            if before is None:
                self._begin_anew(report, variants)
            if before is None or before.incarnation != report.incarnation:
                self._last[report.identity] = report
            elif report.number > before.number:
                self._last[report.identity] = report
                self._add(before, report, variants)
        self._miss({report.identity for report in reports}, now_ns)
        for history in self.histories.values():
            history.prune(now_ns - self._window_ns - self._stale_ns)

    def known(self, now_ns: int) -> Known:
        """Return up to when averages may be taken now."""
        arrivals = {
            name: report.arrival_ns
            for name, report in self._last.items()
            if name not in self._missing
        }
        fresh = [ns for ns in arrivals.values() if now_ns - ns <= self._stale_ns]
        silent = sorted(
            {name for name, ns in arrivals.items() if now_ns - ns > self._stale_ns}
            | self._missing.keys()
        )
        problem = f"no news of {', '.join(silent)}" if silent else ""
        if not fresh:
            return Known(None, problem or "no gateway is connected")
        return Known(min(fresh), problem)

    def _begin_anew(self, report: Report, variants: Mapping[str, Collection[str]]) -> None:
        """Know nothing of the past of endpoints that a gateway served before it was heard of.

        Taken for nothing, what it did then would count as time in which few asked.
        """
        for name, own in variants.items():
            if any(any(report.usage.get(variant, _NOTHING)) for variant in own):
                history = self.histories[name]
                history.began_ns = max(history.began_ns, report.arrival_ns)

    def _miss(self, present: set[str], now_ns: int) -> None:
        for identity in self._last.keys() - present:
            self._missing.setdefault(identity, now_ns)
        for identity, since_ns in list(self._missing.items()):
            if identity in present:
                del self._missing[identity]
            elif now_ns - since_ns > self._window_ns:
                del self._missing[identity], self._last[identity]

    def _add(self, before: Report, report: Report, variants: Mapping[str, Collection[str]]) -> None:
        for name, own in variants.items():
            total = _NOTHING
            for variant in own:
                new = report.usage.get(variant, _NOTHING)
                total = total.plus(_grown(before.usage.get(variant, _NOTHING), new))
            piece = Piece(before.arrival_ns, report.arrival_ns, total)
            self.histories[name].add(piece)


def _grown(before: Usage, after: Usage) -> Usage:
    """Return what was added; a count that fell, or is no number, says nothing."""
    pairs = zip(after, before, strict=True)
    return Usage(*(max(0.0, new - old) if math.isfinite(new - old) else 0.0 for new, old in pairs))
