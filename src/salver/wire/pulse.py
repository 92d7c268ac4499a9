"""Signs of life of the processes of one machine, in memory that others may read at any time.

A stopped process closes no link and answers no message, and whoever would ask it had to wait. A
note in a file that it has mapped costs it nothing, and says when to expect the next one.

Layout: two native 64-bit numbers of monotonic nanoseconds, which all processes of a machine share:
when the process's event loop last came round, and by when it will have done so again.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

from salver.wire.notes import Notes

_NOTES = Notes("pulse-")
_path, forget, clear = _NOTES.path, _NOTES.forget, _NOTES.clear
_NOTE = struct.Struct("=qq")
_BEATEN, _DUE = 0, 1


class Beat(NamedTuple):
    """When a process's loop came round, and by when it will again (monotonic nanoseconds)."""

    beaten_ns: int
    due_ns: int


class Pulse:
    """One process's own note; nobody else writes it while it runs."""

    __slots__ = ("_map", "_numbers")

    def __init__(self, mapped: mmap.mmap) -> None:
        self._map = mapped
        self._numbers = memoryview(mapped).cast("q")

    @classmethod
    def open(cls, folder: Path, process: str) -> "Pulse":
        """Map the process's note, made if it is not there; raises ``OSError``."""
        descriptor = _opened(folder, process, os.O_RDWR | os.O_CREAT)
        try:
            # A sparse file would kill whoever writes to it on a full disk (SIGBUS).
            os.posix_fallocate(descriptor, 0, _NOTE.size)
            return cls(mmap.mmap(descriptor, _NOTE.size))
        finally:
            os.close(descriptor)

    def beat(self, now_ns: int, due_ns: int) -> None:
        """Say that the loop came round, and when to expect that again."""
        self._numbers[_DUE] = due_ns
        self._numbers[_BEATEN] = now_ns

    def close(self) -> None:
        """Unmap."""
        self._numbers.release()
        self._map.close()


def read(folder: Path, process: str) -> Beat | None:
    """Return a process's last note, None where there is none."""
    try:
        descriptor = _opened(folder, process, os.O_RDONLY)
    except OSError:
        return None
    try:
        found = os.pread(descriptor, _NOTE.size, 0)
    finally:
        os.close(descriptor)
    return Beat(*_NOTE.unpack(found)) if len(found) == _NOTE.size else None


def expect(folder: Path, process: str, beat: Beat) -> None:
    """Note for a process that is about to start by when it will have come round first.

    Raises ``OSError``.
    """
    # Not shortened first: whoever has it mapped would die of that.
    descriptor = _opened(folder, process, os.O_WRONLY | os.O_CREAT)
    try:
        os.pwrite(descriptor, _NOTE.pack(*beat), 0)
    finally:
        os.close(descriptor)


def _opened(folder: Path, process: str, flags: int) -> int:
    return os.open(_path(folder, process), flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
