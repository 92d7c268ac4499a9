"""What a worker process may use of its machine: it sets its own limits before it loads a model."""

import ctypes
import fcntl
import os
import resource
from collections import Counter
from contextlib import suppress
from pathlib import Path

from salver.core.errors import MemoryLimitExceeded, ResourceUnavailable, SalverError
from salver.core.hosting import Cpus, Limits, parse_cpus

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_TASKS = Path("/proc/self/task")
_FILES = "cpus-"
_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory", "annot allocate memory")
_MAX_CAUSES = 8


class OwnLimits:
    """Component that holds this process's limits; what it took is free when the process ends.

    ``folder`` is where the workers of this machine say which CPUs are theirs.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity
        self._claim: int | None = None

    def start(self, limits: Limits, *, is_spare: bool = False) -> None:
        """Set them, once; raises ``ResourceUnavailable`` or ``HostingRefused``.

        A spare worker, which rarely runs anything, keeps no others from its CPUs.
        """
        if limits.gpu is not None:
            see_one_gpu(limits.gpu)
        if limits.cpus:
            allowed = os.sched_getaffinity(0)
            cpus = self._claim_cpus(parse_cpus(limits.cpus), allowed, is_spare=is_spare)
            # The threads that are there already have places of their own.
            for task in os.listdir(_TASKS):
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task), cpus)
        if limits.memory_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))

    def _claim_cpus(self, wanted: Cpus, allowed: set[int], *, is_spare: bool) -> frozenset[int]:
        """Return the CPUs that this process gets, and let the other workers know."""
        missing = wanted.listed - allowed
        if missing or wanted.number > len(allowed):
            told = _text(missing) if missing else str(wanted.number)
            raise ResourceUnavailable(
                f"CPUs {told} were asked for, but workers may use {_text(allowed)} here"
            )
        lock = os.open(self._folder / "cpus.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            chosen = wanted.listed or self._least_used(wanted.number, allowed)
            if is_spare:
                return chosen
            path = self._folder / f"{_FILES}{self._identity}"
            claim = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_TRUNC, 0o600)
            fcntl.flock(claim, fcntl.LOCK_EX)
            os.write(claim, _text(chosen).encode())
            # Held open, which holds the lock, as long as this process lives.
            self._claim = claim
        finally:
            os.close(lock)
        return chosen

    def _least_used(self, number: int, allowed: set[int]) -> frozenset[int]:
        used = Counter(
            cpu
            for path in self._folder.glob(f"{_FILES}*")
            if path.name != f"{_FILES}{self._identity}"
            for cpu in _claimed(path)
        )
        return frozenset(sorted(allowed, key=lambda cpu: (used[cpu], cpu))[:number])


def see_one_gpu(number: int) -> None:
    """Hide all GPUs but one from this process; raises ``ResourceUnavailable`` without that one.

    Where an operator has hidden some already, they are counted among those that are left.
    """
    given = os.environ.get(_VISIBLE)
    devices = [str(index) for index in range(_gpus())]
    if given is not None:
        devices = [name.strip() for name in given.split(",") if name.strip()] if devices else []
    if number >= len(devices):
        there = f"{len(devices)} that a worker may see" if devices else "none"
        raise ResourceUnavailable(
            f"GPU {number} was asked for, but there is {there} on this machine (they are counted "
            "from 0; nvidia-smi lists them, and a container has to be given them)"
        )
    os.environ[_VISIBLE] = devices[number]


def explained(error: SalverError) -> SalverError:
    """Return an error that says so if it comes of this process's memory limit."""
    limit_bytes = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit_bytes == resource.RLIM_INFINITY or not _is_out_of_memory(error):
        return error
    return MemoryLimitExceeded(
        f"more memory was needed than the {limit_bytes} bytes of --memory-limit: {error.message}"
    )


def _is_out_of_memory(error: BaseException) -> bool:
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return False
        if isinstance(cause, MemoryError) or any(text in str(cause) for text in _OUT_OF_MEMORY):
            return True
        cause = cause.__cause__
    return False


def _claimed(path: Path) -> frozenset[int]:
    """Return the CPUs of a worker that lives; what a dead one left behind is removed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return frozenset()
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return frozenset(int(cpu) for cpu in path.read_text().split(",") if cpu.isdigit())
    else:
        path.unlink(missing_ok=True)
        return frozenset()
    finally:
        os.close(file)


def _text(cpus: frozenset[int] | set[int]) -> str:
    return ",".join(str(cpu) for cpu in sorted(cpus))


def _gpus() -> int:
    """Return how many GPUs the driver has, without opening any."""
    try:
        driver = ctypes.CDLL("libnvidia-ml.so.1")
        count = ctypes.c_uint(0)
        if driver.nvmlInit_v2() != 0 or driver.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value
