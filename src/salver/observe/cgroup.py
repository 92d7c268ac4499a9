"""How much of the memory that its control group allows a process and its company have taken."""

from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_MAX_DEPTH = 16


def cgroup_share(root: Path = _ROOT, own: Path = _OWN) -> float:
    """Return the part of the limit that is in use, of the tightest group on the way up.

    What the kernel can take back by itself, the pages of files, is not counted. 0 where there is
    no limit, or no control group. Both versions are read.
    """
    share = 0.0
    for folder, names in _groups(root, own):
        with suppress(OSError, ValueError, KeyError):
            share = max(share, _share(folder, *names))
    return share


_V2 = ("memory.max", "memory.current", "")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _groups(root: Path, own: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """Return the folders of this process's groups, up to the root."""
    found: list[tuple[Path, tuple[str, str, str]]] = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top, names = root, _V2
        elif "memory" in controllers.split(","):
            top, names = root / "memory", _V1
        else:
            continue
        folder = top / path.strip("/")
        parents = [one for one in folder.parents if one.is_relative_to(top)]
        found += [(one, names) for one in (folder, *parents)[:_MAX_DEPTH]]
    return found


def _share(folder: Path, limit_name: str, used_name: str, prefix: str) -> float:
    text = (folder / limit_name).read_text().strip()
    if text == "max":
        return 0.0
    used_bytes = int((folder / used_name).read_text())
    stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
    files_bytes = int(stat[f"{prefix}inactive_file"]) + int(stat[f"{prefix}active_file"])
    return max(0, used_bytes - files_bytes) / max(1, int(text))
