"""What a worker process may use of its machine: it sets its own limits before it loads a model."""

import fcntl
import gc
import os
import resource
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from salver.core.errors import MemoryLimitExceeded, ResourceUnavailable, SalverError, message_of
from salver.core.hosting import Cpus, Limits, parse_cpus
from salver.observe.cgroup import PROCS
from salver.observe.gpu import gpu_count
from salver.observe.logs import get_logger

log = get_logger(__name__)

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_TASKS = Path("/proc/self/task")
_AUTOGROUP = Path("/proc/self/autogroup")
_NICE = "10"
_FILES = "cpus-"
_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory", "annot allocate memory")
_MAX_CAUSES = 8
_STATM = Path("/proc/self/statm")
_DATA_FIELD = 5
_hit = threading.Event()


class OwnLimits:
    """Component that holds this process's limits; what it took is free when the process ends.

    ``folder`` is where the workers of this machine say which CPUs are theirs.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity
        self._claim: int | None = None
        self._limit_bytes = 0
        self._least_bytes: int | None = None

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
            self._limit_bytes = limits.memory_bytes

    def is_spent(self, *, loads: bool) -> bool:
        """Tell whether the memory limit was hit because this process keeps what it took.

        That is so when, after the failed request is gone, it still holds more than half of what
        its loaded model left free at first. To be asked now and then; ``loads`` tells that a model
        is on its way.
        """
        if not self._limit_bytes:
            return False
        if loads:
            self._least_bytes = None
            return False
        held_bytes = data_bytes()
        least_bytes = min(held_bytes, self._least_bytes or held_bytes)
        self._least_bytes = least_bytes
        if not _hit.is_set():
            return False
        _hit.clear()
        gc.collect()
        return data_bytes() - least_bytes > (self._limit_bytes - least_bytes) / 2

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
            # What the process before left running may hold the lock of its file for ever.
            path.unlink(missing_ok=True)
            claim = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
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


def join_groups(folders: Sequence[Path]) -> None:
    """Be in these control groups from now on, with all threads; where one refuses, the log says so.

    Whoever made them has given them their limits.
    """
    for folder in folders:
        try:
            (folder / PROCS).write_text("0")
        except OSError as error:
            fix = "this process has no limit but its own (RLIMIT); see supervisor.worker_limits"
            log.warning("group_not_joined", group=str(folder), cause=str(error), fix=fix)


def data_bytes() -> int:
    """Return how much of its memory limit this process uses; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[_DATA_FIELD]) * resource.getpagesize()
    except OSError:
        return 0


def step_back() -> None:
    """Have the threads of this process run while no other process wants the processor, for good.

    It cannot be undone without privileges, so who needs more gets another process. Where the kernel
    shares the processor between sessions first, the weight of the own session is what counts; it is
    lowered if this process leads one. What the system refuses is left as it is.
    """
    for task in os.listdir(_TASKS):
        with suppress(OSError):
            os.sched_setscheduler(int(task), os.SCHED_IDLE, os.sched_param(0))
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            _AUTOGROUP.write_text(_NICE)


def see_one_gpu(number: int) -> None:
    """Hide all GPUs but one from this process; raises ``ResourceUnavailable`` without that one.

    Where an operator has hidden some already, they are counted among those that are left.
    """
    given = os.environ.get(_VISIBLE)
    devices = [str(index) for index in range(gpu_count())]
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
    _hit.set()
    return MemoryLimitExceeded(
        f"more memory was needed than the {limit_bytes} bytes of --memory-limit: {error.message}"
    )


def _is_out_of_memory(error: BaseException) -> bool:
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return False
        told = message_of(cause)
        if isinstance(cause, MemoryError) or any(text in told for text in _OUT_OF_MEMORY):
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
