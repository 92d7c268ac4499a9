"""What control groups this machine lets the tests have, found out without the code under test."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_PROBE = "salver-test-probe"
_JOIN = "import sys; open(sys.argv[1], 'w').write('0')"
_LIMIT_BYTES = 1 << 28
_LOOKS, _PAUSE_S = 100, 0.05


def own_v1(controller: str) -> Path | None:
    """Return this process's group in a hierarchy of version 1, None where there is none."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            folder = Path("/sys/fs/cgroup") / names / path.strip("/")
            return folder if folder.is_dir() else None
    return None


def has_v1(controller: str, limit_file: str) -> bool:
    """Tell whether processes can be put into groups with this kind of limit."""
    place = own_v1(controller)
    if place is None:
        return False
    folder = place / _PROBE
    try:
        folder.mkdir()
    except OSError:
        return False
    try:
        (folder / limit_file).write_text(str(_LIMIT_BYTES))
        joined = subprocess.run(
            [sys.executable, "-c", _JOIN, str(folder / "cgroup.procs")],
            capture_output=True,
            check=False,
        )
        return joined.returncode == 0
    except OSError:
        return False
    finally:
        folder.rmdir()


def has_v1_memory() -> bool:
    """Tell whether memory can be limited."""
    return has_v1("memory", "memory.limit_in_bytes")


def has_v1_cpu() -> bool:
    """Tell whether processor time can be limited."""
    return has_v1("cpu", "cpu.cfs_quota_us")


def groups_of(pid: int) -> dict[str, str]:
    """Return the names of a process's groups, by controllers; version 2 by nothing."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    parts = [line.split(":", 2) for line in lines]
    return {names: path.rpartition("/")[2] for _, names, path in parts}


def named(prefix: str) -> list[Path]:
    """Return the groups of this machine whose names begin so.

    Groups come and go meanwhile, which ``Path.glob`` takes for an error and ``os.walk`` does not.
    """
    return [
        Path(parent) / name
        for parent, names, _ in os.walk("/sys/fs/cgroup", topdown=False)
        for name in names
        if name.startswith(prefix)
    ]


def remove(prefix: str) -> None:
    """Remove the groups that a test has left, with whoever it left in them."""
    for path in named(prefix):
        with suppress(OSError):
            for pid in (path / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        for _ in range(_LOOKS):
            with suppress(OSError):
                path.rmdir()
            if not path.exists():
                break
            time.sleep(_PAUSE_S)
