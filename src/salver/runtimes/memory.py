"""Gives freed memory back to the system after a model was unloaded."""

import ctypes
import gc


def give_back() -> None:
    """Collect garbage and trim the C heap, where the C library can."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
