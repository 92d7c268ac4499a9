"""The circuit breaker of one variant: when to stop asking a model that fails everybody.

*Closed*: requests pass, and what becomes of them is counted over a sliding window. Too many
failures *open* it: requests are refused for a while, which doubles each time. After that it is
*half-open*: a few requests are let through as probes, and if all end well, it closes.
"""

from collections import deque
from collections.abc import Hashable
from enum import StrEnum
from typing import Final, NamedTuple

_SLOTS: Final = 10
_MAX_CALLERS: Final = 64
_OTHERS: Final = "others"


class State(StrEnum):
    """Whether requests pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerPolicy(NamedTuple):
    """When a breaker opens, and for how long.

    It opens when of at least ``min_requests`` within ``window_ns`` a part of ``failure_ratio``
    failed, first for ``open_ns``, then twice as long each time, at most ``max_open_ns``.
    ``probes`` is how many requests must end well before it closes.
    """

    failure_ratio: float = 0.5
    min_requests: int = 20
    window_ns: int = 10_000_000_000
    open_ns: int = 5_000_000_000
    max_open_ns: int = 60_000_000_000
    probes: int = 3


class Ends(NamedTuple):
    """How requests ended: those that were answered, failed, or ``stalled`` past their deadlines."""

    answered: int = 0
    failed: int = 0
    stalled: int = 0

    def plus(self, other: "Ends") -> "Ends":
        """Return both together."""
        return Ends(*(one + more for one, more in zip(self, other, strict=True)))

    def less(self, other: "Ends") -> "Ends":
        """Return these without others that are part of them."""
        return Ends(*(one - part for one, part in zip(self, other, strict=True)))


class _Counts:
    """How requests of one stretch of time ended, by caller."""

    __slots__ = ("begin_ns", "by_caller")

    def __init__(self, begin_ns: int) -> None:
        self.begin_ns = begin_ns
        self.by_caller: dict[Hashable, Ends] = {}

    def add(self, caller: Hashable, ends: Ends) -> None:
        if caller not in self.by_caller and len(self.by_caller) >= _MAX_CALLERS:
            caller = _OTHERS
        self.by_caller[caller] = self.by_caller.get(caller, Ends()).plus(ends)


class Breaker:
    """One variant's breaker; all times are monotonic nanoseconds.

    A single caller cannot open it for others who are answered: it opens only if too many fail also
    when the caller with the most failures is left out, unless nobody else asks.

    Requests that stalled past their deadlines are failures only where nobody was answered in all of
    the window: a model that is overloaded answers some, and a pause would take them these, too.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        self.state = State.CLOSED
        self.policy = policy
        self.openings = 0
        self._slots: deque[_Counts] = deque()
        self._open_until_ns = 0
        self._open_ns = policy.open_ns
        self._probing = 0
        self._proven = 0

    def record(self, caller: Hashable, ends: Ends, now_ns: int) -> None:
        """Count how requests that passed while it was closed ended; may open it."""
        if self.state is not State.CLOSED:
            return
        slots, policy = self._slots, self.policy
        while slots and slots[0].begin_ns <= now_ns - policy.window_ns:
            slots.popleft()
        if not slots or slots[-1].begin_ns <= now_ns - policy.window_ns // _SLOTS:
            slots.append(_Counts(now_ns))
        slots[-1].add(caller, ends)
        if (ends.failed or ends.stalled) and self._fails_everybody():
            self._open(now_ns)

    def _fails_everybody(self) -> bool:
        sums: dict[Hashable, Ends] = {}
        for slot in self._slots:
            for caller, ends in slot.by_caller.items():
                sums[caller] = sums.get(caller, Ends()).plus(ends)
        everybody = Ends()
        for ends in sums.values():
            everybody = everybody.plus(ends)
        hangs = not everybody.answered
        if everybody.answered + _failures(everybody, hangs=hangs) < self.policy.min_requests:
            return False
        worst = max(sums.values(), key=lambda ends: _failures(ends, hangs=hangs))
        others = everybody.less(worst)
        return self._exceeds(everybody, hangs=hangs) and self._exceeds(others, hangs=hangs)

    def _exceeds(self, ends: Ends, *, hangs: bool) -> bool:
        failed = _failures(ends, hangs=hangs)
        return failed >= self.policy.failure_ratio * (ends.answered + failed)

    def admit(self, now_ns: int) -> bool:
        """Tell whether a request may pass; one that does while it is not closed is a probe."""
        if self.state is State.CLOSED:
            return True
        if self.state is State.OPEN:
            if now_ns < self._open_until_ns:
                return False
            self.state, self._probing, self._proven = State.HALF_OPEN, 0, 0
        if self._probing + self._proven >= self.policy.probes:
            return False
        self._probing += 1
        return True

    def wait_ns(self, now_ns: int) -> int:
        """Return how long a refused caller should wait; 0 while probes are out."""
        return max(0, self._open_until_ns - now_ns) if self.state is State.OPEN else 0

    def probed(self, *, good: bool | None, now_ns: int) -> None:
        """Take note how a probe ended; None if that says nothing about the model."""
        if self.state is not State.HALF_OPEN:
            return
        self._probing -= 1
        if good is None:
            return
        if not good:
            self._open_ns = min(2 * self._open_ns, self.policy.max_open_ns)
            self._open(now_ns)
            return
        self._proven += 1
        if self._proven >= self.policy.probes:
            self.state, self._open_ns = State.CLOSED, self.policy.open_ns

    def _open(self, now_ns: int) -> None:
        self.state = State.OPEN
        self.openings += 1
        self._slots.clear()
        self._open_until_ns = now_ns + self._open_ns


def _failures(ends: Ends, *, hangs: bool) -> int:
    return ends.failed + (ends.stalled if hangs else 0)
