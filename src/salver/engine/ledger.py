"""Shared memory in which a worker notes what it is about to run.

When a worker dies, its gateways must know which of their requests were in the running batch. A
message would have to reach the kernel before every run and wake the gateway. A note in memory that
both have mapped costs neither, and outlives the process that wrote it.

Layout: 64 slots of one page each, one for every version that the worker hosts: a 32-bit count, four
bytes of nothing, and as many 64-bit ids of the link's requests. Ids are never used twice on a link,
so a note need not be erased: a request that it names is open still, or it is not.
"""

import mmap
import os
import secrets
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from salver.core.errors import WireError
from salver.core.names import check_name

SLOTS = 64
_PREFIX = "ledger-"
_SLOT_BYTES = 4096
_COUNT = struct.Struct("<I")
_IDS_AT = 8
MAX_IDS = (_SLOT_BYTES - _IDS_AT) // 8
_SIZE_BYTES = SLOTS * _SLOT_BYTES


def new_name(worker: str) -> str:
    """Return a name for a ledger of a link to this worker."""
    return f"{_PREFIX}{worker}-{secrets.token_hex(8)}"


def clear(folder: Path, worker: str) -> None:
    """Remove what gateways of an earlier process of this worker left behind."""
    for path in folder.glob(f"{_PREFIX}{worker}-{'[0-9a-f]' * 16}"):
        path.unlink(missing_ok=True)


class Ledger:
    """One link's notes; the gateway makes and reads them, the worker writes them."""

    __slots__ = ("_map", "_path", "_structs")

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self._path = path
        self._map = mapped
        self._structs: dict[int, struct.Struct] = {}

    @classmethod
    def create(cls, folder: Path, name: str) -> "Ledger":
        """Make an empty ledger as a new file; raises ``OSError``, also when there is no room."""
        path = folder / check_name(name, "ledger")
        try:
            return cls._mapped(path, os.O_CREAT | os.O_EXCL)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def open(cls, folder: Path, name: str) -> "Ledger":
        """Map a ledger that the other side made, and remove its name.

        Raises ``OSError``, ``InvalidName``, or ``WireError`` for a file that is none.
        """
        check_name(name, "ledger")
        if not name.startswith(_PREFIX):
            raise WireError(f"{name!r} is not the name of a ledger")
        ledger = cls._mapped(folder / name, os.O_NOFOLLOW)
        ledger.forget_name()
        return ledger

    @classmethod
    def _mapped(cls, path: Path, flags: int) -> "Ledger":
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        try:
            if flags & os.O_CREAT:
                # A sparse file would kill whoever writes to it on a full disk (SIGBUS).
                os.posix_fallocate(descriptor, 0, _SIZE_BYTES)
            elif os.fstat(descriptor).st_size != _SIZE_BYTES:
                raise WireError(f"{path.name} is not a ledger of this version")
            return cls(path, mmap.mmap(descriptor, _SIZE_BYTES))
        finally:
            os.close(descriptor)

    def note(self, slot: int, ids: Sequence[int]) -> bool:
        """Replace a slot's note; False when there is no such slot or not enough room."""
        count = len(ids)
        if slot >= SLOTS or count > MAX_IDS:
            return False
        start, mapped = slot * _SLOT_BYTES, self._map
        layout = self._structs.get(count)
        if layout is None:
            layout = self._structs[count] = struct.Struct(f"<{count}Q")
        # Whoever dies in between has run nothing yet, so an empty note is the truth.
        _COUNT.pack_into(mapped, start, 0)
        layout.pack_into(mapped, start + _IDS_AT, *ids)
        _COUNT.pack_into(mapped, start, count)
        return True

    def noted(self) -> frozenset[int]:
        """Return every id that is noted; only what the worker was about to run matters."""
        ids: set[int] = set()
        for start in range(0, _SIZE_BYTES, _SLOT_BYTES):
            (count,) = _COUNT.unpack_from(self._map, start)
            ids.update(struct.unpack_from(f"<{min(count, MAX_IDS)}Q", self._map, start + _IDS_AT))
        return frozenset(ids)

    def forget_name(self) -> None:
        """Remove the file's name; the memory lives as long as somebody has it mapped."""
        with suppress(OSError):
            self._path.unlink()

    def close(self) -> None:
        """Unmap; harmless when repeated."""
        self.forget_name()
        self._map.close()
