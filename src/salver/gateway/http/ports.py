"""What connections ask of the server that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from salver.core.clock import Clock
    from salver.core.errors import SalverError
    from salver.core.settings import HttpSettings
    from salver.gateway.http.arrears import Arrears
    from salver.gateway.http.connection import HttpConnection
    from salver.gateway.http.heads import Heads
    from salver.gateway.http.memory import PayloadMemory
    from salver.gateway.http.message import HttpMessage
    from salver.gateway.http.prelude import Successor

Identify = Callable[[Mapping[bytes, bytes], str], object]


class Server(Protocol):
    """What connections need of the server.

    ``identify`` raises ``Unauthenticated`` for the headers and certificate of a caller whom
    nobody knows; it is asked before a large body is read.
    """

    settings: HttpSettings
    clock: Clock
    draining: bool
    memory: PayloadMemory
    arrears: Arrears
    handle: Callable[[HttpMessage], None]
    refuse: Callable[[HttpMessage, SalverError], None]
    identify: Identify

    def successor(self, peer: str) -> Successor | None:
        """Return a protocol for a client that speaks HTTP/2, None where that is off."""
        ...

    def heads_of(self, peer: str) -> Heads | None:
        """Return the memory of heads for connections of this peer."""
        ...

    def opened(self, connection: HttpConnection) -> bool:
        """Admit a connection; False when there are too many."""
        ...

    def closed(self, connection: HttpConnection) -> None:
        """Forget a connection."""
        ...
