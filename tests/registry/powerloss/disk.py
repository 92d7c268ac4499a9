"""What a disk may hold after power loss, given the operations a process made and synced.

Data counts as safe once its file was synced, a name once its folder was. Everything else may or
may not have reached the disk, each on its own, which is more than most file systems would lose.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Operation(NamedTuple):
    """One line of the record."""

    kind: str
    path: str
    rest: str
    data: bytes


@dataclass
class Inode:
    """A file's bytes as they are, and as they were at the last sync. Folders have none."""

    now: bytearray = field(default_factory=bytearray)
    safe: bytes = b""
    folder: bool = False


def read_record(log: Path) -> list[Operation]:
    """Return the operations in order."""
    operations = []
    for line in log.read_text().splitlines():
        parts = line.split("\t")
        data = bytes.fromhex(parts[3]) if parts[0] == "W" else b""
        operations.append(Operation(parts[0], parts[1], parts[2], data))
    return operations


class Disk:
    """Names and files, each as it is now and as it is safe."""

    def __init__(self, root: str) -> None:
        self.root = root
        folder = Inode(folder=True)
        self.now: dict[str, Inode] = {root: folder}
        self.safe: dict[str, Inode] = {root: folder}

    def apply(self, operation: Operation) -> None:
        """Do what the process did."""
        kind, path, rest, data = operation
        if kind in ("C", "M"):
            self.now[path] = Inode(folder=kind == "M")
        elif kind == "W" and path in self.now:
            content, offset = self.now[path].now, int(rest)
            content.extend(b"\0" * (offset - len(content)))
            content[offset : offset + len(data)] = data
        elif kind == "T" and path in self.now:
            content, size = self.now[path].now, int(rest)
            content.extend(b"\0" * (size - len(content)))
            del content[size:]
        elif kind == "S":
            self._sync(path)
        elif kind == "R":
            self.now[rest] = self.now.pop(path)
        elif kind == "L":
            self.now[rest] = self.now[path]
        elif kind == "U":
            self.now.pop(path, None)

    def _sync(self, path: str) -> None:
        inode = self.now.get(path)
        if inode is None:
            return
        if not inode.folder:
            inode.safe = bytes(inode.now)
            return
        for known in (*self.now, *self.safe):
            if known.rpartition("/")[0] == path:
                self._sync_name(known)

    def _sync_name(self, path: str) -> None:
        inode = self.now.get(path)
        if inode is None:
            self.safe.pop(path, None)
        else:
            self.safe[path] = inode

    def after_power_loss(self, rng: random.Random, luck: float) -> dict[str, bytes | None]:
        """Return files (and folders, as None); ``luck`` is how likely unsafe things survive."""
        found: dict[str, bytes | None] = {}
        for path in sorted({*self.now, *self.safe}):
            table = self.now if rng.random() < luck else self.safe
            inode = table.get(path)
            parent = path.rpartition("/")[0]
            if inode is None or (path != self.root and parent not in found):
                continue
            found[path] = None if inode.folder else self._content(inode, rng, luck)
        return found

    @staticmethod
    def _content(inode: Inode, rng: random.Random, luck: float) -> bytes:
        if rng.random() < luck:
            return bytes(inode.now)
        if rng.random() < luck:
            # Some sectors were written and some were not.
            size, sector = max(len(inode.now), len(inode.safe)), 512
            mixed = bytearray(inode.safe.ljust(size, b"\0"))
            for start in range(0, size, sector):
                if rng.random() < luck:
                    part = bytes(inode.now[start : start + sector])
                    mixed[start : start + len(part)] = part
            return bytes(mixed)
        return inode.safe


def restore(found: dict[str, bytes | None], root: str, target: Path) -> None:
    """Write the files that survived into a folder."""
    for path, content in found.items():
        place = target / path[len(root) :].lstrip("/")
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.write_bytes(content)
