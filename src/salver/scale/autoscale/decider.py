"""Decides for one endpoint, one look after the other."""

import math
from collections import deque
from typing import NamedTuple

from salver.scale.autoscale.demand import describe, enough, needed
from salver.scale.autoscale.history import Usage
from salver.scale.autoscale.policy import QUEUE, Policy

_S_NS = 1_000_000_000
_SAME_LOAD = 0.8
_REMEMBER_NS = 3600 * _S_NS


class View(NamedTuple):
    """What is known at one time.

    ``stable`` and ``panic`` are averages over the two windows, None without any telemetry.
    ``caution`` says why there must not be fewer workers now, if there is a reason.
    """

    now_ns: int
    ready: int
    stable: Usage | None
    panic: Usage | None
    caution: str = ""


class Decision(NamedTuple):
    """How many replicas there shall be, and why."""

    wanted: int
    reason: str
    panics: bool = False


class _TooFew(NamedTuple):
    """So many workers were too few: in a second ``asked`` requests came and ``managed`` ended."""

    workers: int
    asked: float
    managed: float
    since_ns: int


class Decider:
    """What is remembered of one endpoint between two looks.

    Steady load is never answered with a to and fro: what proved to be too few is not tried again
    while as much is asked, for an hour. Neither a short history proves that, which sees requests
    that came before it began, nor the peak of a panic that is over.
    """

    def __init__(self) -> None:
        self._panic_since_ns: int | None = None
        self._panic_peak = 0
        self._recent: deque[tuple[int, int]] = deque()
        self._too_few: _TooFew | None = None

    @property
    def panics(self) -> bool:
        """Tell whether a burst is being answered."""
        return self._panic_since_ns is not None

    def restart(self) -> None:
        """Forget when what was wanted, since the clock cannot be trusted; the delay begins anew."""
        self._recent.clear()
        self._panic_since_ns, self._panic_peak, self._too_few = None, 0, None

    def decide(self, policy: Policy, view: View, current: int) -> Decision:
        """Return what shall follow the ``current`` number."""
        current = policy.clamp(current)
        if view.stable is None or view.panic is None:
            return self._hold(policy, view, current)
        pace = policy.pace
        ready = max(1, view.ready)
        stable, burst = (needed(policy, mean, ready) for mean in (view.stable, view.panic))
        self._watch_panic(policy, view, burst / ready)
        target = self._in_reach(policy, stable, ready)
        reason = describe(policy, view.stable, ready, pace.stable_s)
        if self.panics:
            peak = max(target, self._in_reach(policy, burst, ready))
            self._panic_peak = target = max(peak, self._panic_peak)
            reason = f"panic: {describe(policy, view.panic, ready, pace.panic_s)}"
        target, note = self._bounded(policy, target)
        if not self.panics or target < current:
            target, note = self._fewer(policy, view, target, current)
        wanted = self._delayed(policy, view.now_ns, target, current)
        if wanted > target:
            note = f"{target} are enough, waits {policy.delay_s:g} s"
        # The queue is measured anew after each worker, so that its history is always short then.
        is_known = policy.metric == QUEUE or not view.caution
        if wanted > current and max(stable, burst) > current and is_known:
            # What was asked must be of the same time as what it took.
            self._remember(view, view.panic if burst > current else view.stable, current)
        note = note or view.caution
        return Decision(wanted, f"{reason}; {note}" if note else reason, self.panics)

    def _hold(self, policy: Policy, view: View, current: int) -> Decision:
        wanted = self._delayed(policy, view.now_ns, current, current)
        return Decision(wanted, view.caution or "no telemetry yet", self.panics)

    def _watch_panic(self, policy: Policy, view: View, ratio: float) -> None:
        if ratio >= policy.pace.panic_threshold:
            self._panic_since_ns = view.now_ns
        elif self._panic_since_ns is not None:
            calm_ns = view.now_ns - self._panic_since_ns
            if calm_ns > policy.pace.stable_s * _S_NS:
                self._panic_since_ns, self._panic_peak = None, 0

    def _in_reach(self, policy: Policy, count: int, ready: int) -> int:
        pace = policy.pace
        # At least one more, whatever a factor close to 1 would allow.
        most = max(ready + 1, int(ready * pace.most_growth))
        least = int(ready / pace.most_shrinkage)
        return max(least, min(count, most))

    def _bounded(self, policy: Policy, target: int) -> tuple[int, str]:
        bounded = policy.clamp(target)
        if target > bounded:
            return bounded, f"{target} are too many, at most {policy.most}"
        return bounded, ""

    def _fewer(self, policy: Policy, view: View, target: int, current: int) -> tuple[int, str]:
        """Return how far down one may go from what is there."""
        assert view.stable is not None
        ready = max(1, view.ready)
        if target > current:
            return target, ""
        # While some are starting, how long requests wait says nothing about how many there are.
        if view.caution or (policy.metric == QUEUE and ready < current):
            return current, ""
        calm = self._in_reach(policy, enough(policy, view.stable, ready), ready)
        target = policy.clamp(min(current, calm))
        known = self._too_few
        if known is None or target > 2 * known.workers or self._is_old(known, view.now_ns):
            return target, ""
        asked = view.stable.asked
        if not asked or asked < _SAME_LOAD * known.asked:
            return target, ""
        # What so many managed tells how many more it takes, but not if it was measured in a rush.
        share = math.ceil(known.workers * asked / known.managed) if known.managed else 0
        least = max(known.workers + 1, min(share, 2 * known.workers))
        if least <= target:
            return target, ""
        return min(current, policy.clamp(least)), f"{known.workers} were too few"

    def _delayed(self, policy: Policy, now_ns: int, target: int, current: int) -> int:
        """Return the target, or if it is lower the most that was wanted during the delay."""
        recent, oldest_ns = self._recent, now_ns - policy.delay_s * _S_NS
        if not recent:
            recent.append((now_ns, current))
        while recent and recent[0][0] < oldest_ns:
            recent.popleft()
        recent.append((now_ns, target))
        if policy.delay_s <= 0:
            return target
        return max(target, min(current, max(count for _, count in recent)))

    def _remember(self, view: View, seen: Usage, current: int) -> None:
        workers, asked = min(current, max(1, view.ready)), seen.asked
        known = self._too_few
        if (
            known is None
            or workers >= known.workers
            or asked < _SAME_LOAD * known.asked
            or self._is_old(known, view.now_ns)
        ):
            self._too_few = _TooFew(workers, asked, seen.finished, view.now_ns)

    def _is_old(self, known: _TooFew, now_ns: int) -> bool:
        return now_ns - known.since_ns > _REMEMBER_NS
