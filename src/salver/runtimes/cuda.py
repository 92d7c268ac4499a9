"""The CUDA context that all libraries of this process share, asked through the driver."""

import ctypes
import functools
from typing import Any

_OK = 0


def failure() -> str:
    """Return why this process can compute on its GPU no more, "" while it can.

    After a kernel that failed, for example of an address that is not its own, each later call
    fails in the same way.
    """
    driver = _driver()
    context = None if driver is None else _context(driver)
    if context is None:
        return ""
    driver.cuCtxPushCurrent_v2(context)
    code = driver.cuCtxSynchronize()
    driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    return "" if code == _OK else _name(driver, code)


@functools.cache
def _driver() -> Any:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        return driver if driver.cuInit(0) == _OK else None
    except (OSError, AttributeError):
        return None


@functools.cache
def _context(driver: Any) -> ctypes.c_void_p | None:
    """Return the context of the first device, kept for as long as the process lives."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuDeviceGet(ctypes.byref(device), 0) != _OK:
        return None
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != _OK:
        return None
    return context


def _name(driver: Any, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(text))
    return (text.value or b"").decode() or f"CUDA error {code}"
