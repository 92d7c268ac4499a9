"""Large reads: while a large body arrives, the socket writes into memory that connections share.

Read in pieces of ``bytes``, each frame would be copied into a piece, out of it, and into its body.
From here its bytes are copied once, by ``DataFrames.take_run``.
"""

from typing import Protocol

from salver.gateway.http.large import Reader, Substitute


class Owner(Reader, Protocol):
    """The connection that a large body arrives on."""

    @property
    def rest(self) -> bytes:
        """The beginning of a frame whose end has not come."""
        ...

    def large_received(self, view: memoryview) -> None:
        """Take the rest and the new bytes behind it; the memory is good for this call only."""
        ...


class LargeReads(Substitute):
    """Protocol of a connection while large bodies arrive.

    ``memory`` may be shared by the connections of one loop, since a read and its handling are one
    step of the loop. It must be longer than the longest frame.
    """

    def __init__(self, owner: Owner, memory: memoryview) -> None:
        super().__init__(owner)
        self._owner = owner
        self._memory = memory
        self._rest_bytes = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go: behind the rest of those before."""
        del sizehint
        rest = self._owner.rest
        self._rest_bytes = size = len(rest)
        self._memory[:size] = rest
        return self._memory[size:]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand new bytes on."""
        self._owner.large_received(self._memory[: self._rest_bytes + nbytes])
