"""How the processes of workers with a memory limit ended, for others on this machine.

Whoever had a link to a worker sees it break at once; why the process died its parent learns a
moment later, and notes it in a file. While the file is there, a note will come for every end.
"""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from salver.wire.notes import Notes

OUT_OF_MEMORY = "over its memory limit, killed by the kernel"
"""How a process ended that the kernel killed for its control group's limit, in words."""
_NOTES = Notes("end-")
_path, forget, clear = _NOTES.path, _NOTES.forget, _NOTES.clear


class End(NamedTuple):
    """Which process ended last, and the limit that it was killed for, 0 for another cause."""

    pid: int
    memory_limit_bytes: int


def expect(folder: Path, worker: str) -> None:
    """Say that ends of a worker's processes will be noted; raises ``OSError``."""
    with suppress(FileExistsError):
        _path(folder, worker).open("x").close()


def tell(folder: Path, worker: str, end: End) -> None:
    """Note an end; raises ``OSError``."""
    path = _path(folder, worker)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(f"{end.pid} {end.memory_limit_bytes}")
    temporary.replace(path)


def is_noted(folder: Path, worker: str) -> bool:
    """Tell whether ends of a worker's processes are noted."""
    return _path(folder, worker).exists()


def read(folder: Path, worker: str) -> End | None:
    """Return the last end of a worker's processes, None where none is known."""
    try:
        pid, limit_bytes = _path(folder, worker).read_text().split()
        return End(int(pid), int(limit_bytes))
    except (OSError, ValueError):
        return None
