"""Memory for large payloads, used again instead of being returned to the system and cleared."""

import mmap
import weakref

import numpy as np

from salver.core.errors import Overloaded
from salver.gateway.http.framing import body_buffer, take_large_pages
from salver.gateway.http.large import LARGE_PAGES_FROM_BYTES, READ_BYTES

_ROUND_BYTES = 64 * 1024
_RETRY_AFTER_S = 1.0


class PayloadMemory:
    """What the payloads of one server live in.

    Between ``refuse`` and ``admit`` no more bodies are let in; answers always have their place.

    A piece returns when nothing refers to it any more, and is kept for the next payload of about
    its size, up to ``kept_bytes`` in all. ``sweep``, called now and then, lets go of what was not
    needed since the call before the last. With 0 nothing is kept.

    Whoever takes a piece must not read what it has not written: it may hold an older payload.

    ``read_memory`` is where the sockets of all connections of a loop write to while large bodies
    arrive in frames.
    """

    def __init__(self, kept_bytes: int) -> None:
        self.read_memory = memoryview(bytearray(READ_BYTES))
        self._limit_bytes = kept_bytes
        self._refuses = False
        self._fresh: dict[int, list[mmap.mmap]] = {}
        self._stale: dict[int, list[mmap.mmap]] = {}

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept now."""
        return sum(
            size * len(pieces)
            for kept in (self._fresh, self._stale)
            for size, pieces in kept.items()
        )

    def body(self, size_bytes: int) -> memoryview:
        """Return a piece that takes no memory until bytes are written, unless it was used before.

        Raises ``Overloaded`` when bodies are refused, or the address space has no room for it.
        """
        self.let_in(size_bytes)
        return self._piece(size_bytes)

    def let_in(self, size_bytes: int) -> None:
        """Raise ``Overloaded`` when a body that has come so far may not grow any more."""
        if self._refuses:
            raise Overloaded(
                f"memory is short, and a body of {size_bytes} bytes is refused; try again later",
                retry_after_s=_RETRY_AFTER_S,
            )

    def _piece(self, size_bytes: int) -> memoryview:
        if size_bytes < LARGE_PAGES_FROM_BYTES or not self._limit_bytes:
            return body_buffer(size_bytes)
        rounded = -(-size_bytes // _ROUND_BYTES) * _ROUND_BYTES
        pieces = self._fresh.get(rounded) or self._stale.get(rounded)
        piece = pieces.pop() if pieces else body_buffer(rounded).obj
        assert isinstance(piece, mmap.mmap)
        # Views of the array refer to it, so it ends when the last of them does.
        array = np.frombuffer(piece, np.uint8, count=size_bytes)
        weakref.finalize(array, self._return, piece, rounded).atexit = False
        return array.data

    def answer(self, size_bytes: int) -> memoryview:
        """Return a piece that will be filled at once.

        Raises ``Overloaded`` when the address space has no room for it.
        """
        piece = self._piece(size_bytes)
        if size_bytes >= LARGE_PAGES_FROM_BYTES:
            take_large_pages(piece)
        return piece

    def sweep(self) -> None:
        """Let go of what was not needed for a while."""
        self._stale, self._fresh = self._fresh, {}

    def refuse(self) -> None:
        """Let no more bodies in, since memory is short."""
        self._refuses = True

    def admit(self) -> None:
        """Let them in again."""
        self._refuses = False

    def forget(self) -> None:
        """Let go of everything that is kept."""
        self._fresh, self._stale = {}, {}

    def _return(self, piece: mmap.mmap, size: int) -> None:
        if self.kept_bytes + size <= self._limit_bytes:
            self._fresh.setdefault(size, []).append(piece)
