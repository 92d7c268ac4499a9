"""Version 2 of control groups as files in a folder."""

import os
import shutil
from pathlib import Path

from salver.observe.cgroup import Membership
from salver.scale.local.groups.base import Bounds
from salver.scale.local.groups.v2 import GroupsV2


class Tree(GroupsV2):
    """Version 2 in a folder, whose files nobody makes or removes but who writes them."""

    def remove(self, folder: Path) -> None:
        """Remove a folder with its files."""
        shutil.rmtree(folder)


def unit(folder: Path, **files: str) -> Membership:
    """Return a group of version 2 as a service has it, in a folder."""
    place = folder / "top" / "system.slice" / "salver.service"
    place.mkdir(parents=True)
    usual = {
        "cgroup.controllers": "cpuset cpu io memory pids",
        "cgroup.subtree_control": "",
        "cgroup.type": "domain",
        "cgroup.procs": str(os.getpid()),
    }
    for name, text in (
        usual | {key.replace("_", ".", 1): text for key, text in files.items()}
    ).items():
        (place / name).write_text(f"{text}\n")
    return Membership(2, frozenset(), folder / "top", place)


def text(path: Path) -> str:
    """Return what a file has, without the end of its line."""
    return path.read_text().strip()


class Memory(Tree):
    """A place without a CPU controller, as a user's session has it by default."""

    why = "no cpu here"

    def make(self, name: str, bounds: Bounds) -> tuple[Path, ...]:
        """Make a group; raises ``OSError`` for a part of a CPU."""
        if bounds.cpus:
            raise OSError(22, self.why, str(self.places()[0] / name))
        return super().make(name, bounds)
