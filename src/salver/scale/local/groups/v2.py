"""Control groups of version 2: one hierarchy, whose inner groups have no processes."""

import os
from contextlib import suppress
from pathlib import Path

from salver.core.errors import ResourceUnavailable
from salver.observe.cgroup import PROCS, Membership
from salver.scale.local.groups.base import (
    PERIOD_US,
    Bounds,
    count_of,
    kill_each,
    make_folders,
    members,
    quota_us,
    write,
)

_SUBTREE, _AVAILABLE = "cgroup.subtree_control", "cgroup.controllers"
_MARKS = ("user.delegate", "trusted.delegate")
_SHOWN = 5


class GroupsV2:
    """Component that makes groups beneath the one that this process is in, or beneath ``root``.

    Where controllers are passed on, no process may be: this one, and what it starts besides
    workers with limits, moves to a group ``leaf`` beside theirs. Unless ``trusting``, the place
    has to be marked as somebody's own where the user may write everywhere.
    """

    name = "cgroup v2"

    def __init__(
        self,
        own: Membership,
        root: str,
        leaf: str,
        *,
        trusting: bool = False,
    ) -> None:
        folder = own.folder.parent if own.folder.name == leaf else own.folder
        self._top = own.top
        self._is_inside = not root
        self._place = own.top / root.strip("/") if root else folder
        self._leaf = self._place / leaf
        self._trusting = trusting or bool(root)
        self._passed_on: list[str] = []
        self._has_moved = False
        self._made: list[Path] = []

    def provision(self) -> None:
        """Pass the memory controller on; raises ``ResourceUnavailable`` or ``OSError``."""
        place = self._place
        self._made += make_folders(place)
        if "memory" not in _words(place / _AVAILABLE):
            raise ResourceUnavailable(
                f"{place} has no memory controller: the group above does not pass it on (a "
                "service of systemd needs Delegate=yes)"
            )
        if not self._trusting and os.geteuid() == 0 and not self._is_own(place):
            raise ResourceUnavailable(
                f"{place} is not marked as delegated to this service (Delegate=yes), so it may be "
                "managed by others; set supervisor.worker_limits to cgroup if it is not"
            )
        try:
            self._move_out(place)
            self._pass_on("memory")
        except (OSError, ResourceUnavailable):
            self.stop()
            raise

    def make(self, name: str, bounds: Bounds) -> tuple[Path, ...]:
        """Make a group; the CPU controller is passed on when the first one needs it."""
        if bounds.cpus:
            self._pass_on("cpu")
        folder = self._place / name
        folder.mkdir()
        try:
            if bounds.memory_bytes:
                write(folder, "memory.max", bounds.memory_bytes)
                # A kernel without swap has no such file.
                with suppress(OSError):
                    write(folder, "memory.swap.max", 0)
            if bounds.cpus:
                write(folder, "cpu.max", f"{quota_us(bounds.cpus)} {PERIOD_US}")
            # An earlier server may have passed it on, and not have come to take it back.
            if bounds.background and (bounds.cpus or "cpu" in _words(self._place / _SUBTREE)):
                with suppress(OSError):
                    write(folder, "cpu.idle", 1)
        except OSError:
            with suppress(OSError):
                self.remove(folder)
            raise
        return (folder,)

    def limit_bytes(self, folders: tuple[Path, ...]) -> int:
        """Return the memory that a group may have."""
        return int((folders[0] / "memory.max").read_text())

    def memory_kills(self, folders: tuple[Path, ...]) -> int:
        """Return how many processes were killed since the group itself had no memory left."""
        events = [folder / "memory.events" for folder in folders]
        # Kills count where the victim was, even if a group above, or the machine, was full.
        return sum(count_of(one, "oom_kill") for one in events if count_of(one, "oom"))

    def kill(self, folder: Path) -> None:
        """Kill every process in a group, at once where the kernel can (5.14 and newer)."""
        try:
            # Made by the kernel; where it is not there, none is to be made.
            descriptor = os.open(folder / "cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            kill_each(folder)
            return
        try:
            os.write(descriptor, b"1")
        finally:
            os.close(descriptor)

    def remove(self, folder: Path) -> None:
        """Remove a group; raises ``OSError`` while a process is in it."""
        folder.rmdir()

    def places(self) -> list[Path]:
        """Return the folder in which groups are made."""
        return [self._place]

    def stop(self) -> None:
        """Keep the controllers again where nobody else needs them, and go back to where it was."""
        if not self._is_shared():
            for controller in reversed(self._passed_on):
                with suppress(OSError):
                    write(self._place, _SUBTREE, f"-{controller}")
        self._passed_on = []
        if self._has_moved:
            with suppress(OSError):
                write(self._place, PROCS, os.getpid())
                self.remove(self._leaf)
                self._has_moved = False
        for folder in reversed(self._made):
            with suppress(OSError):
                self.remove(folder)

    def _move_out(self, place: Path) -> None:
        """Leave the place to the groups of workers; only the root of all may have processes."""
        if not self._is_inside or not (place / "cgroup.type").exists():
            return
        strangers = set(members(place)) - {os.getpid()}
        if strangers:
            shown = ", ".join(str(pid) for pid in sorted(strangers)[:_SHOWN])
            raise ResourceUnavailable(
                f"{place} has processes of others ({shown}), and only a group without any can "
                "have groups with limits; start 'salver up' in one of its own (a service, or "
                "systemd-run --user --scope -p Delegate=yes)"
            )
        self._leaf.mkdir(exist_ok=True)
        write(self._leaf, PROCS, os.getpid())
        self._has_moved = True

    def _is_shared(self) -> bool:
        """Tell whether others have groups here, or may have: theirs would lose their limits."""
        if not self._is_inside:
            return True
        with suppress(OSError):
            return any(one.is_dir() and one != self._leaf for one in self._place.iterdir())
        return True

    def _is_own(self, place: Path) -> bool:
        """Tell whether the place is marked, or all that a container can see."""
        return _is_marked(place) or (place == self._top and (place / "cgroup.type").exists())

    def _pass_on(self, controller: str) -> None:
        if controller not in _words(self._place / _SUBTREE):
            write(self._place, _SUBTREE, f"+{controller}")
            self._passed_on.append(controller)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _is_marked(place: Path) -> bool:
    """Tell whether systemd says that the group is its owner's to divide."""
    for mark in _MARKS:
        with suppress(OSError):
            if os.getxattr(place, mark) == b"1":
                return True
    return False
