"""Control groups of version 1: a hierarchy for each controller."""

import resource
from contextlib import suppress
from pathlib import Path

from salver.core.errors import ResourceUnavailable
from salver.observe.cgroup import Membership
from salver.scale.local.groups.base import (
    PERIOD_US,
    Bounds,
    count_of,
    kill_each,
    make_folders,
    quota_us,
    write,
)

_MEMORY, _CPU = "memory", "cpu"
_LIMIT, _LIMIT_WITH_SWAP = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
_HIGHEST = {
    _LIMIT: "memory.max_usage_in_bytes",
    _LIMIT_WITH_SWAP: "memory.memsw.max_usage_in_bytes",
}
# Nobody is killed for want of more pages than 8 in one; that is all that can have been left.
_LAST_BYTES = 8 * resource.getpagesize()


class GroupsV1:
    """Component that makes groups beneath those that this process is in, or beneath ``root``."""

    name = "cgroup v1"

    def __init__(self, own: list[Membership], root: str) -> None:
        self._own = own
        self._root = root.strip("/")
        self._places: dict[str, Path] = {}
        self._made: list[Path] = []

    def provision(self) -> None:
        """Find the hierarchies; raises ``ResourceUnavailable``, and ``OSError`` for ``root``."""
        for one in self._own:
            for controller in one.controllers & {_MEMORY, _CPU}:
                place = one.top / self._root if self._root else one.folder
                self._made += make_folders(place)
                self._places[controller] = place
        if _MEMORY not in self._places:
            raise ResourceUnavailable("no hierarchy of control groups has a memory controller")

    def make(self, name: str, bounds: Bounds) -> tuple[Path, ...]:
        """Make a group in the hierarchies whose controllers have something to do."""
        made: list[Path] = []
        try:
            if bounds.memory_bytes:
                self._limit_memory(self._folder(_MEMORY, name, made), bounds.memory_bytes)
            if bounds.cpus:
                self._limit_cpus(self._folder(_CPU, name, made), bounds)
        except OSError:
            for folder in made:
                with suppress(OSError):
                    self.remove(folder)
            raise
        return tuple(made)

    def _folder(self, controller: str, name: str, made: list[Path]) -> Path:
        place = self._places.get(controller)
        if place is None:
            raise OSError(f"no hierarchy of control groups has a {controller} controller")
        folder = place / name
        if folder not in made:
            folder.mkdir()
            made.append(folder)
        return folder

    @staticmethod
    def _limit_memory(folder: Path, limit_bytes: int) -> None:
        write(folder, _LIMIT, limit_bytes)
        # A kernel that does not account swap has no such file.
        with suppress(OSError):
            write(folder, _LIMIT_WITH_SWAP, limit_bytes)

    @staticmethod
    def _limit_cpus(folder: Path, bounds: Bounds) -> None:
        write(folder, "cpu.cfs_period_us", PERIOD_US)
        write(folder, "cpu.cfs_quota_us", quota_us(bounds.cpus))
        if bounds.background:
            with suppress(OSError):
                write(folder, "cpu.idle", 1)

    def limit_bytes(self, folders: tuple[Path, ...]) -> int:
        """Return the memory that a group may have."""
        return int((folders[0] / _LIMIT).read_text())

    def memory_kills(self, folders: tuple[Path, ...]) -> int:
        """Return how many processes were killed since the group itself had no memory left."""
        # Kills count where the victim was, even if a group above, or the machine, was full.
        full = [folder for folder in folders if _was_full(folder)]
        return sum(count_of(folder / "memory.oom_control", "oom_kill") for folder in full)

    def kill(self, folder: Path) -> None:
        """Kill every process in a group."""
        kill_each(folder)

    def remove(self, folder: Path) -> None:
        """Remove a group; raises ``OSError`` while a process is in it."""
        folder.rmdir()

    def places(self) -> list[Path]:
        """Return the folders in which groups are made."""
        return list(dict.fromkeys(self._places.values()))

    def stop(self) -> None:
        """Remove the root that was made; nothing else was changed."""
        for folder in reversed(self._made):
            with suppress(OSError):
                self.remove(folder)


def _was_full(folder: Path) -> bool:
    """Tell whether a group has ever had all that it may have; what failed is not always counted."""
    for limit, highest in _HIGHEST.items():
        with suppress(OSError, ValueError):
            limit_bytes = int((folder / limit).read_text())
            if int((folder / highest).read_text()) > limit_bytes - _LAST_BYTES:
                return True
    return False
