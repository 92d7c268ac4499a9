"""The GPUs of this machine as the driver's management library counts them, without opening any."""

import ctypes
import functools
import os
from typing import Any

_MOST_PROCESSES = 1024
_UNKNOWN_BYTES = 2**64 - 1


class _Process(ctypes.Structure):
    """``nvmlProcessInfo_t`` as ``nvmlDeviceGetComputeRunningProcesses_v3`` fills it in."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


def gpu_count() -> int:
    """Return how many GPUs the driver has; 0 without a driver."""
    driver = _driver()
    count = ctypes.c_uint(0)
    if driver is None or driver.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu_used_bytes() -> int:
    """Return what this process occupies of all GPUs; 0 where the driver does not tell.

    Drivers do not where processes have other numbers than outside, as in many containers.
    """
    return sum([_used_bytes(index) for index in range(gpu_count())])


def _used_bytes(index: int) -> int:
    driver = _driver()
    device, count = ctypes.c_void_p(), ctypes.c_uint(_MOST_PROCESSES)
    if driver is None or driver.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
        return 0
    processes = (_Process * _MOST_PROCESSES)()
    try:
        ask = driver.nvmlDeviceGetComputeRunningProcesses_v3
    except AttributeError:
        return 0
    if ask(device, ctypes.byref(count), processes) != 0:
        return 0
    known = processes[: min(count.value, _MOST_PROCESSES)]
    sizes = [one.used_bytes for one in known if one.pid == os.getpid()]
    return sum([size for size in sizes if size != _UNKNOWN_BYTES])


def _driver() -> Any:
    return _opened(os.getpid())


@functools.lru_cache(maxsize=1)
def _opened(pid: int) -> Any:
    """Return the library, opened by this very process: what a parent opened is not ours."""
    del pid
    try:
        driver = ctypes.CDLL("libnvidia-ml.so.1")
        return driver if driver.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None
