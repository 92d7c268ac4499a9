"""Cuts the messages of a streaming call out of its bytes, whatever frames they come in."""

from collections import deque

from salver.core.errors import BodyTooLarge, InvalidRequest
from salver.gateway.grpc.framing import PREFIX
from salver.gateway.http.body import Body, Buffer
from salver.gateway.http.framing import body_buffer
from salver.gateway.http.large import Allocate

_JOIN_BYTES = 4096

Message = tuple[int, Buffer]


class Incoming:
    """The bytes that have come on one stream.

    Bytes stay untouched until ``next`` needs them, which tells in ``taken_bytes`` how many it took
    altogether. The size of a message is believed, and checked, before anything is kept for it; the
    memory of a large one is what ``allocate`` gives.
    """

    __slots__ = (
        "_allocate",
        "_chunks",
        "_head",
        "_limit_bytes",
        "_message",
        "_size",
        "taken_bytes",
    )

    def __init__(self, limit_bytes: int, allocate: Allocate = body_buffer) -> None:
        self._limit_bytes = limit_bytes
        self._allocate = allocate
        self._chunks: deque[bytes] = deque()
        self._head = b""
        self._message = Body(None, allocate)
        self._size = 0
        self.taken_bytes = 0

    @property
    def has_bytes(self) -> bool:
        """Tell whether there are bytes that nobody has looked at."""
        return bool(self._chunks)

    @property
    def is_midway(self) -> bool:
        """Tell whether a message has begun whose rest has not been looked at."""
        return bool(self._head)

    @property
    def partial_bytes(self) -> int:
        """Bytes of the message that has begun."""
        return len(self._head) + self._message.size_bytes

    def add(self, data: bytes) -> None:
        """Take bytes."""
        chunks = self._chunks
        if chunks and len(chunks[-1]) + len(data) <= _JOIN_BYTES:
            # Frames of a byte or two would else take many times their size in memory.
            chunks[-1] += data
        elif data:
            chunks.append(data)

    def clear(self) -> None:
        """Let go of everything."""
        self._chunks.clear()
        self._head, self._message = b"", Body(None, self._allocate)

    def next(self) -> Message | None:
        """Return the next message and its compressed flag, None while its end has not come.

        Raises ``InvalidRequest`` or ``BodyTooLarge`` for what is no message, and ``Overloaded``
        where there is no memory for it.
        """
        while len(self._head) < PREFIX.size:
            if not self._chunks:
                return None
            self._head += self._take(PREFIX.size - len(self._head))
            if len(self._head) == PREFIX.size:
                self._begin()
        while self._message.size_bytes < self._size:
            if not self._chunks:
                return None
            self._message.add(self._take(self._size - self._message.size_bytes))
        compressed, message = self._head[0], self._message.whole()
        self._head, self._message = b"", Body(None, self._allocate)
        return compressed, message

    def _begin(self) -> None:
        compressed, size = PREFIX.unpack(self._head)
        if compressed > 1:
            raise InvalidRequest("the compressed flag of a message is neither 0 nor 1")
        if size > self._limit_bytes:
            raise BodyTooLarge(
                f"a message of {size} bytes is over the limit of {self._limit_bytes}"
            )
        self._size = size
        self._message.expect(size)

    def _take(self, count: int) -> bytes:
        """Return up to so many of the next bytes."""
        chunk = self._chunks.popleft()
        if len(chunk) > count:
            self._chunks.appendleft(chunk[count:])
            chunk = chunk[:count]
        self.taken_bytes += len(chunk)
        return chunk
