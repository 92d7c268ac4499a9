"""The body of a request while it arrives piece by piece."""

from salver.gateway.http.framing import body_buffer, take_large_pages
from salver.gateway.http.large import LARGE_BODY_BYTES, LARGE_PAGES_FROM_BYTES, Allocate

Buffer = bytes | bytearray | memoryview


class Body:
    """Collects a body; one whose length is known and large goes into one piece of memory.

    Whatever the size of the pieces, it takes about as much memory as it has bytes.
    """

    __slots__ = ("_allocate", "_expected", "_first", "_memory", "_rest", "size_bytes")

    def __init__(self, expected_bytes: int | None = None, allocate: Allocate = body_buffer) -> None:
        self._allocate = allocate
        self._expected = expected_bytes
        self._first = b""
        self._rest: bytearray | None = None
        self._memory: memoryview | None = None
        self.size_bytes = 0

    @property
    def is_open_ended(self) -> bool:
        """Tell whether nobody has said yet how long the body will be."""
        return self._expected is None and self._memory is None

    def expect(self, size_bytes: int) -> None:
        """Take note of how long the body will be, which the first bytes of it said."""
        self._expected = size_bytes

    def add(self, data: bytes) -> None:
        """Take the next bytes; raises ``Overloaded`` when there is no memory for the rest."""
        end = self.size_bytes + len(data)
        expected = self._expected
        if self._memory is None and end >= LARGE_BODY_BYTES and expected and expected >= end:
            self._memory = self._allocate(expected)
            self._memory[: self.size_bytes] = self._rest if self._rest is not None else self._first
            self._first, self._rest = b"", None
        memory = self._memory
        if memory is not None and end <= memory.nbytes:
            memory[self.size_bytes : end] = data
        elif memory is not None:
            # More came than was announced; whoever knows the protocol refuses it.
            self._rest = bytearray(memory[: self.size_bytes]) + data
            self._memory = self._expected = None
        elif self._rest is not None:
            self._rest += data
        elif self._first:
            self._rest = bytearray(self._first) + data
            self._first = b""
        else:
            self._first = data
        self._grown(end)

    def room(self) -> memoryview | None:
        """Return the memory that the rest of a large body goes into, None where it has none.

        Whoever writes into it from its beginning on says so with ``filled``.
        """
        return None if self._memory is None else self._memory[self.size_bytes :]

    def filled(self, count: int) -> None:
        """Take note that so many bytes were written into the room."""
        self._grown(self.size_bytes + count)

    def _grown(self, end: int) -> None:
        memory = self._memory
        if memory is not None and self.size_bytes < LARGE_PAGES_FROM_BYTES <= end:
            take_large_pages(memory)
        self.size_bytes = end

    def first(self, count: int) -> bytes:
        """Return the first bytes of a body that is open ended."""
        return bytes(self._rest[:count]) if self._rest is not None else self._first[:count]

    def whole(self) -> Buffer:
        """Return what has arrived; a short body is ``bytes``."""
        if self._memory is not None:
            return self._memory[: self.size_bytes]
        if self._rest is None:
            return self._first
        return bytes(self._rest) if self.size_bytes < LARGE_BODY_BYTES else self._rest
