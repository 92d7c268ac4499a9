"""Wakes the sender at an instant: to some microseconds where Linux has timerfd, else to one ms."""

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Protocol

from salver.core.clock import Clock

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_NS_PER_S = 1_000_000_000
_COUNTER_BYTES = 8

Wake = Callable[[], None]


class Pacer(Protocol):
    """One alarm; setting it anew replaces the instant."""

    def start(self, wake: Wake) -> None:
        """Begin; ``wake`` is called in the running loop."""
        ...

    def at(self, due_ns: int) -> None:
        """Call ``wake`` at a reading of the monotonic clock, or at once when it has passed."""
        ...

    def stop(self) -> None:
        """End, without a further call."""
        ...


class LoopPacer:
    """The event loop's own timers, which count milliseconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wake: Wake | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, wake: Wake) -> None:
        """Begin."""
        self._wake = wake

    def at(self, due_ns: int) -> None:
        """Set the timer."""
        self._cancel()
        assert self._wake is not None
        delay_s = max(0, due_ns - self._clock.monotonic_ns()) / _NS_PER_S
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def stop(self) -> None:
        """Cancel the timer."""
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Alarm(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class KernelPacer:
    """A timer of the kernel's, awaited as a descriptor; needs Linux and the system's clock."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._descriptor = -1
        self._wake: Wake | None = None

    def start(self, wake: Wake) -> None:
        """Make the timer; raises ``OSError`` where the kernel refuses it."""
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = self._library.timerfd_create(_CLOCK_MONOTONIC, flags)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._descriptor, self._wake = descriptor, wake
        asyncio.get_running_loop().add_reader(descriptor, self._ring)

    def at(self, due_ns: int) -> None:
        """Set the timer; a value of zero would switch it off."""
        seconds, nanoseconds = divmod(max(due_ns, 1), _NS_PER_S)
        alarm = _Alarm(_Timespec(0, 0), _Timespec(seconds, nanoseconds))
        self._library.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(alarm), None)

    def stop(self) -> None:
        """Close the timer."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _ring(self) -> None:
        try:
            os.read(self._descriptor, _COUNTER_BYTES)
        except BlockingIOError:  # it was set anew after the loop had seen it ring
            return
        assert self._wake is not None
        self._wake()


def kernel_pacer() -> KernelPacer | None:
    """Return the precise pacer, or None where there is no timerfd."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        library.timerfd_create  # noqa: B018 - looking the function up is the question
    except (OSError, AttributeError):
        return None
    return KernelPacer(library)
