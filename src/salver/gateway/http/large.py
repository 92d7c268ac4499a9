"""A large body on its way from the socket into memory of its own."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from salver.gateway.http.framing import body_buffer, take_large_pages

LARGE_BODY_BYTES = 64 * 1024
READ_BYTES = 256 * 1024
"""What connections share to read large bodies that come in frames."""
LARGE_PAGES_FROM_BYTES = 512 * 1024


Allocate = Callable[[int], memoryview]


class Reader(Protocol):
    """The protocol that a connection has most of the time."""

    def eof_received(self) -> bool | None:
        """See ``asyncio.Protocol``."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        ...

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        ...

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        ...


class Owner(Reader, Protocol):
    """The connection that a large body arrives on."""

    def large_received(self, count: int) -> None:
        """Take note that so many bytes more are there."""
        ...


class Substitute(asyncio.BufferedProtocol):
    """Reads for another protocol for a while, and hands on everything else."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def eof_received(self) -> bool | None:
        """Hand on."""
        return self._reader.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on."""
        self._reader.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hand on."""
        self._reader.pause_writing()

    def resume_writing(self) -> None:
        """Hand on."""
        self._reader.resume_writing()


class LargeBody(Substitute):
    """Protocol of a connection until the body is complete, so that the socket writes into it.

    ``memory`` is not touched before its bytes arrive, so that a head alone does not occupy any.
    """

    def __init__(self, owner: Owner, size_bytes: int, allocate: Allocate = body_buffer) -> None:
        super().__init__(owner)
        self.memory = allocate(size_bytes)
        self.is_receiving = False
        self._owner = owner
        self._filled = 0

    @property
    def missing_bytes(self) -> int:
        """Bytes that have not arrived yet."""
        return self.memory.nbytes - self._filled

    def take(self, data: bytes | memoryview) -> None:
        """Store bytes that arrived together with the head."""
        end = self._filled + len(data)
        self.memory[self._filled : end] = data
        self._filled = end

    def receive(self, transport: asyncio.Transport) -> None:
        """Let the socket write into the memory from now on."""
        self.is_receiving = True
        transport.set_protocol(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        del sizehint
        return self.memory[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of new bytes."""
        before = self._filled
        self._filled += nbytes
        if before < LARGE_PAGES_FROM_BYTES <= self._filled:
            take_large_pages(self.memory)
        self._owner.large_received(nbytes)
