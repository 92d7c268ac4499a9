"""Time as an injected dependency.

Durations and deadlines use the monotonic clock; the wall clock is for stamps that people
or other machines read.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time, both in nanoseconds."""

    def monotonic_ns(self) -> int:
        """Return a reading that never goes backwards; only differences have meaning."""
        ...

    def unix_ns(self) -> int:
        """Return nanoseconds since 1970-01-01 UTC; may jump when the machine's clock is set."""
        ...


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    monotonic_ns = staticmethod(time.monotonic_ns)
    unix_ns = staticmethod(time.time_ns)


class ManualClock:
    """A clock that moves only when told to; for tests and simulations."""

    __slots__ = ("_monotonic_ns", "_unix_ns")

    def __init__(self, start_ns: int = 1_000_000_000) -> None:
        self._monotonic_ns = start_ns
        self._unix_ns = 1_700_000_000_000_000_000 + start_ns

    def monotonic_ns(self) -> int:
        """Return the current simulated monotonic reading."""
        return self._monotonic_ns

    def unix_ns(self) -> int:
        """Return the current simulated wall-clock reading."""
        return self._unix_ns

    def advance(self, seconds: float) -> None:
        """Move both readings forward by ``seconds``."""
        step_ns = round(seconds * 1e9)
        self._monotonic_ns += step_ns
        self._unix_ns += step_ns

    def set_wall(self, seconds: float) -> None:
        """Move the wall clock alone, ahead or back, as whoever sets a machine's clock does."""
        self._unix_ns += round(seconds * 1e9)
