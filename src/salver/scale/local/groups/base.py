"""What both versions of control groups have in common."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from salver.observe.cgroup import PROCS

PERIOD_US = 100_000


class Bounds(NamedTuple):
    """What a group keeps its processes to; 0 is no limit.

    ``cpus`` is how many seconds of processor time they get in one. In the ``background`` they get
    what no other group wants.
    """

    memory_bytes: int = 0
    cpus: float = 0.0
    background: bool = False


class Groups(Protocol):
    """Control groups of one version, beneath one place."""

    name: str

    def provision(self) -> None:
        """Get ready to make groups; raises ``ResourceUnavailable`` or ``OSError``."""
        ...

    def make(self, name: str, bounds: Bounds) -> tuple[Path, ...]:
        """Make a group; returns its folder in each hierarchy that it needs.

        Raises ``OSError``, and leaves nothing then.
        """
        ...

    def limit_bytes(self, folders: tuple[Path, ...]) -> int:
        """Return the memory that a group may have; raises ``OSError`` or ``ValueError``."""
        ...

    def memory_kills(self, folders: tuple[Path, ...]) -> int:
        """Return how many processes the kernel has killed since the group had no memory left.

        Those that it killed for another group's sake, or the machine's, are not among them.
        """
        ...

    def kill(self, folder: Path) -> None:
        """Kill every process in a group."""
        ...

    def remove(self, folder: Path) -> None:
        """Remove a group; raises ``OSError`` while a process is in it."""
        ...

    def places(self) -> list[Path]:
        """Return the folders in which groups are made."""
        ...

    def stop(self) -> None:
        """Leave everything as it was found, when all groups have been removed."""
        ...


def write(folder: Path, name: str, value: object) -> None:
    """Write one of a group's files; raises ``OSError``."""
    (folder / name).write_text(f"{value}\n")


def make_folders(folder: Path) -> list[Path]:
    """Make a group and those above it where they are not there; returns the ones it made.

    Raises ``OSError``.
    """
    missing = [one for one in (*reversed(folder.parents), folder) if not one.is_dir()]
    for one in missing:
        one.mkdir()
    return missing


def members(folder: Path) -> list[int]:
    """Return the processes in a group; none when it is gone."""
    try:
        return [int(word) for word in (folder / PROCS).read_text().split()]
    except (OSError, ValueError):
        return []


def kill_each(folder: Path) -> None:
    """Kill the processes in a group one by one, and nobody who has got the number of one since."""
    for pid in members(folder):
        with suppress(OSError):
            process = os.pidfd_open(pid)
            try:
                if pid in members(folder):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
            finally:
                os.close(process)


def count_of(path: Path, key: str) -> int:
    """Return a number of a file of names and numbers; 0 where there is none."""
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return 0


def quota_us(cpus: float) -> int:
    """Return the processor time of a period for so many CPUs."""
    return round(cpus * PERIOD_US)
