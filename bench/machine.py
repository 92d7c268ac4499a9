"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

CORES = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, and the load that others put on it when the run began."""

    cpu: str
    cores: int
    pinned: tuple[int, ...]
    memory_gib: float
    kernel: str
    python: str
    load_1m: float


def pin() -> tuple[int, ...]:
    """Bind this process, and so all that it starts, to the first two cores it may use."""
    cores = tuple(sorted(os.sched_getaffinity(0))[:CORES])
    os.sched_setaffinity(0, cores)
    return cores


def describe(pinned: tuple[int, ...]) -> Machine:
    """Read the machine's figures."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 0,
        pinned=pinned,
        memory_gib=round(pages / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        load_1m=round(os.getloadavg()[0], 2),
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
