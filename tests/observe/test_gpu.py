"""What the driver tells of GPUs."""

import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from salver.observe import gpu
from salver.observe.gpu import gpu_count, gpu_used_bytes

MIB = 1024 * 1024
UNKNOWN = 2**64 - 1


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Open the library anew, before and after."""
    gpu._opened.cache_clear()
    yield
    gpu._opened.cache_clear()


class Driver:
    """The management library of a machine with GPUs, each with its processes and their memory."""

    def __init__(self, *gpus: dict[int, int], code: int = 0) -> None:
        self.gpus = gpus
        self.code = code

    def nvmlInit_v2(self) -> int:  # noqa: N802 - as the library has it
        """Open."""
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802 - as the library has it
        """Count."""
        count._obj.value = len(self.gpus)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, device: Any) -> int:  # noqa: N802 - as above
        """Find one."""
        device._obj.value = index + 1
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(  # noqa: N802 - as the library has it
        self, device: ctypes.c_void_p, count: Any, processes: Any
    ) -> int:
        """List what runs there."""
        held = self.gpus[int(device.value or 0) - 1]
        for place, (pid, size) in enumerate(held.items()):
            processes[place].pid, processes[place].used_bytes = pid, size
        count._obj.value = len(held)
        return self.code


def use(monkeypatch: pytest.MonkeyPatch, opened: Callable[[str], Any]) -> None:
    """Have this opened instead of the system's library."""
    monkeypatch.setattr(ctypes, "CDLL", opened)


def missing(name: str) -> Any:
    """Be a machine without a driver."""
    raise OSError(name)


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, and nothing occupied."""
    use(monkeypatch, missing)
    assert gpu_count() == 0
    assert gpu_used_bytes() == 0


def test_own_memory_is_counted_on_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other processes occupy is theirs."""
    own = os.getpid()
    driver = Driver({1: 7 * MIB, own: 2 * MIB}, {own: 3 * MIB}, {})
    use(monkeypatch, lambda name: driver)
    assert gpu_count() == 3
    assert gpu_used_bytes() == 5 * MIB


@pytest.mark.parametrize(
    "driver", [Driver({os.getpid(): UNKNOWN}), Driver({os.getpid(): MIB}, code=3), Driver({1: MIB})]
)
def test_what_the_driver_does_not_tell_counts_as_nothing(
    monkeypatch: pytest.MonkeyPatch, driver: Driver
) -> None:
    """A size that it does not know, a refusal, and numbers of processes that are not ours."""
    use(monkeypatch, lambda name: driver)
    assert gpu_used_bytes() == 0
