"""Memory that large payloads are received into."""

import numpy as np


def uninitialised(size_bytes: int) -> memoryview:
    """Return writable bytes without clearing them first, which `bytearray` does.

    The receiver fills every byte before anybody reads one.
    """
    return np.empty(size_bytes, np.uint8).data
