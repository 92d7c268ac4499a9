"""The control groups of this process: which they are, and how much of their memory is taken."""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from salver.core.secret_file import load_secret

PROCS = "cgroup.procs"
"""The file of a group with the processes in it; who writes 0 to it joins."""
_PROC = Path("/proc/self")
_MAX_DEPTH = 16
_DIGEST = 12
_OWN = re.compile(rf"salver-[0-9a-f]{{{_DIGEST}}}\.")
_ID_FILE, _ID_BYTES = "groups.id", 16
_OUTSIDE = "/.."
_ESCAPED = re.compile(r"\\([0-7]{3})")
# Version 1 says so with the largest number of whole pages.
_NO_LIMIT_BYTES = 1 << 62


class Membership(NamedTuple):
    """A hierarchy of control groups that this process can see, and its place there.

    ``folder`` is ``top`` or lies beneath it. ``controllers`` are those of version 1; version 2
    says elsewhere what it has.
    """

    version: int
    controllers: frozenset[str]
    top: Path
    folder: Path


class _Names(NamedTuple):
    limit: str
    used: str
    prefix: str


_V2 = _Names("memory.max", "memory.current", "")
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def group_prefix(home: Path) -> str:
    """Return how the names of the groups begin that a server makes for its own processes.

    A path is not enough: containers that share a tree of groups have homes of the same path. So
    the home keeps a number for it, made at the first call. Raises ``StorageFull``.
    """
    number = load_secret(home / _ID_FILE, _ID_BYTES)
    digest = sha256(number + str(home.resolve()).encode()).hexdigest()
    return f"salver-{digest[:_DIGEST]}."


def memberships(proc: Path = _PROC) -> list[Membership]:
    """Return the groups of this process, version 2 first; none where the system does not tell.

    A container may see a part of a hierarchy only, whose paths the system still tells in full.
    """
    try:
        return list(_memberships(proc, (proc / "cgroup").read_text()))
    except (OSError, ValueError):
        return []


@lru_cache(maxsize=8)
def _memberships(proc: Path, own: str) -> tuple[Membership, ...]:
    """Return these; remembered, since what is mounted is long to read and stays."""
    found: list[Membership] = []
    mounts = list(_mounts((proc / "mountinfo").read_text()))
    for line in own.splitlines():
        number, names, path = line.split(":", 2)
        controllers = frozenset(filter(None, names.split(",")))
        version = 2 if number == "0" and not controllers else 1
        mount = next((m for m in mounts if m[0] == version and controllers <= m[1]), None)
        if mount is not None:
            _, _, root, top = mount
            found.append(Membership(version, controllers, top, _beneath(top, root, path)))
    return tuple(sorted(found, key=lambda one: -one.version))


def cgroup_share(proc: Path = _PROC) -> float:
    """Return the part of the limit that is in use, of the tightest group on the way up.

    What the kernel can take back by itself, the pages of files, is not counted, nor is the group
    that a server made for a worker's own limit. 0 where there is no limit, or no control group.
    """
    share = 0.0
    for folder, names in _limiting(proc):
        with suppress(OSError, ValueError, KeyError):
            share = max(share, _share(folder, names))
    return share


def cgroup_limit_bytes(proc: Path = _PROC) -> int:
    """Return the memory that the tightest of these groups may have; 0 where there is no limit."""
    limits: list[int] = []
    for folder, names in _limiting(proc):
        with suppress(OSError, ValueError):
            limits.append(_limit_bytes(folder, names))
    return min((limit for limit in limits if limit), default=0)


def _mounts(text: str) -> Iterator[tuple[int, frozenset[str], str, Path]]:
    """Read version, options, root and folder of each mounted hierarchy."""
    for line in text.splitlines():
        words, _, rest = line.partition(" - ")
        fields, (kind, _, options) = words.split(), rest.split(None, 2)
        if kind in ("cgroup", "cgroup2"):
            version = 2 if kind == "cgroup2" else 1
            yield version, frozenset(options.split(",")), _plain(fields[3]), Path(_plain(fields[4]))


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def _beneath(top: Path, root: str, path: str) -> Path:
    """Return where a group is in the part of its hierarchy that was mounted; the top at least."""
    if path.startswith(_OUTSIDE):
        return top
    with suppress(ValueError):
        folder = top / Path(path).relative_to(root)
        if folder.is_dir():
            return folder
    return top


def _limiting(proc: Path) -> Iterator[tuple[Path, _Names]]:
    """Give the groups whose memory limits hold for this process, a worker's own one left out."""
    for one in memberships(proc):
        if one.version == 1 and "memory" not in one.controllers:
            continue
        parents = [each for each in one.folder.parents if each.is_relative_to(one.top)]
        for folder in (one.folder, *parents)[:_MAX_DEPTH]:
            if not _OWN.match(folder.name):
                yield folder, _V2 if one.version == 2 else _V1  # noqa: PLR2004 - cgroup v2


def _limit_bytes(folder: Path, names: _Names) -> int:
    text = (folder / names.limit).read_text().strip()
    limit_bytes = 0 if text == "max" else int(text)
    return limit_bytes if limit_bytes < _NO_LIMIT_BYTES else 0


def _share(folder: Path, names: _Names) -> float:
    limit_bytes = _limit_bytes(folder, names)
    if not limit_bytes:
        return 0.0
    used_bytes = int((folder / names.used).read_text())
    stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
    prefix = names.prefix
    files_bytes = int(stat[f"{prefix}inactive_file"]) + int(stat[f"{prefix}active_file"])
    return max(0, used_bytes - files_bytes) / limit_bytes
