"""How much memory this process occupies."""

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

from salver.observe.cgroup import cgroup_share

_STATM = Path("/proc/self/statm")
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_PEAK_ONLY = "5"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return the resident set's size; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def forget_peak() -> bool:
    """Have ``peak_bytes`` count from now on; False where the system does not let this process."""
    try:
        _CLEAR_REFS.write_text(_PEAK_ONLY)
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """Return the largest resident set since ``forget_peak``; 0 where the system does not tell."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def memory_share(budget_bytes: int, *, with_group: bool) -> Callable[[], float]:
    """Return how to measure which part of the memory this process may use is in use.

    That is its own budget, 0 for none, or the limit of its control group, whichever is tighter.
    """

    def measure() -> float:
        share = resident_bytes() / budget_bytes if budget_bytes else 0.0
        return max(share, cgroup_share()) if with_group else share

    return measure


def heap_bytes() -> int:
    """Return what the C heap has given out and not got back; 0 where the C library cannot tell.

    Unlike the resident set it does not depend on what the heap keeps for later.
    """
    ask = _mallinfo()
    if ask is None:
        return 0
    facts = ask()
    return int(facts.uordblks) + int(facts.hblkhd)


class _Mallinfo(ctypes.Structure):
    """What ``mallinfo2`` of glibc 2.33 and newer fills in."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    )  # fmt: skip


@functools.cache
def _mallinfo() -> Callable[[], _Mallinfo] | None:
    try:
        ask = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        return None
    ask.restype = _Mallinfo
    return ask
