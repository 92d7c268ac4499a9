"""Fewer and shorter pauses of Python's cycle collector, and memory given back to the system."""

import ctypes
import gc

_YOUNG_OBJECTS = 50_000
_MIDDLE_RUNS = 20
_OLD_RUNS = 100


def settle() -> None:
    """Leave what start-up made out of every later collection, and collect more rarely.

    Requests make few cycles and many short-lived objects; with Python's own thresholds the old
    generation, modules and plans included, was walked several times a second, which stopped a
    busy gateway for over 10 ms each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _MIDDLE_RUNS, _OLD_RUNS)


def give_back() -> None:
    """Collect garbage and trim the C heap."""
    gc.collect()
    trim()


def trim() -> None:
    """Trim the C heap, where the C library can; other threads run meanwhile."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
