"""Autoscaling of all endpoints: from the gateways' reports to how many replicas each shall have."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from salver.scale.autoscale.decider import Decider, Decision, View
from salver.scale.autoscale.history import History, Usage
from salver.scale.autoscale.policy import QUEUE, Policy
from salver.scale.autoscale.telemetry import Known, Report, Telemetry

_S_NS = 1_000_000_000


class Subject(NamedTuple):
    """An endpoint to decide for.

    ``current`` is how many replicas it is to have so far; ``variants`` are those that answer for
    it, of which ``ready`` workers can.
    """

    policy: Policy
    current: int
    ready: int
    variants: Collection[str]


class Autoscaler:
    """Decides when it is asked, by the time it is given.

    ``window_s`` is how long the past matters, ``stale_s`` how old a report may be, ``gap_s`` how
    long it may be between two looks: after a longer pause, or a clock that went back, nothing of
    the past is trusted any more. Whatever is unknown keeps replicas from becoming fewer.
    """

    def __init__(self, window_s: float, stale_s: float, gap_s: float) -> None:
        self._telemetry = Telemetry(window_s, stale_s)
        self._gap_ns = round(gap_s * _S_NS)
        self._deciders: dict[str, Decider] = {}
        self._ready: dict[str, tuple[int, int]] = {}
        self._last_ns: int | None = None

    def look(
        self, now_ns: int, reports: Sequence[Report], subjects: Mapping[str, Subject]
    ) -> dict[str, Decision]:
        """Return a decision for each endpoint."""
        last_ns, self._last_ns = self._last_ns, now_ns
        if last_ns is not None and not 0 <= now_ns - last_ns <= self._gap_ns:
            self._telemetry.clear()
            self._ready.clear()
            for decider in self._deciders.values():
                decider.restart()
        variants = {name: subject.variants for name, subject in subjects.items()}
        self._telemetry.take(reports, variants, now_ns)
        for gone in self._deciders.keys() - subjects.keys():
            del self._deciders[gone]
            self._ready.pop(gone, None)
        known = self._telemetry.known(now_ns)
        return {
            name: self._decide(name, subject, known, now_ns) for name, subject in subjects.items()
        }

    def _decide(self, name: str, subject: Subject, known: Known, now_ns: int) -> Decision:
        decider = self._deciders.get(name)
        if decider is None:
            decider = self._deciders[name] = Decider()
        history = self._telemetry.histories[name]
        began_ns = self._began_ns(name, subject, history, now_ns)
        view = _view(subject, history, known, began_ns, now_ns)
        return decider.decide(subject.policy, view, subject.current)

    def _began_ns(self, name: str, subject: Subject, history: History, now_ns: int) -> int:
        """Return from when on the past says something about the workers that there are now.

        How long requests wait depends on how many workers there are; what is asked does not.
        """
        ready, since_ns = self._ready.get(name, (subject.ready, history.began_ns))
        if subject.ready > ready:
            since_ns = now_ns
        self._ready[name] = (subject.ready, since_ns)
        return max(history.began_ns, since_ns if subject.policy.metric == QUEUE else 0)


def _view(subject: Subject, history: History, known: Known, began_ns: int, now_ns: int) -> View:
    pace, until_ns = subject.policy.pace, known.until_ns
    if until_ns is None:
        return View(now_ns, subject.ready, None, None, known.problem)
    past_s = (until_ns - began_ns) / _S_NS
    if subject.policy.metric == QUEUE and past_s < pace.panic_s:
        return View(now_ns, subject.ready, None, None, "the time in the queue is being measured")
    caution = known.problem
    if not caution and past_s < pace.stable_s:
        caution = f"{max(0.0, past_s):.0f} s of {pace.stable_s:g} s are known"
    if not caution and not subject.ready:
        caution = "no worker is ready"

    def mean(window_s: float) -> Usage:
        start_ns = max(began_ns, until_ns - round(window_s * _S_NS))
        return history.mean(start_ns, until_ns, least_s=pace.panic_s)

    return View(now_ns, subject.ready, mean(pace.stable_s), mean(pace.panic_s), caution)
