"""What connections ask of those above them: who answers requests, and the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from salver.core.clock import Clock
    from salver.core.errors import SalverError
    from salver.core.settings import HttpSettings
    from salver.gateway.h2.connection import Http2Connection
    from salver.gateway.h2.stream import Stream
    from salver.gateway.http.arrears import Arrears
    from salver.gateway.http.memory import PayloadMemory
    from salver.gateway.http.ports import Identify


class Application(Protocol):
    """What answers the requests of a connection; no method may raise."""

    def begin(self, connection: Http2Connection, stream: Stream) -> None:
        """Take note of a request whose head is complete."""
        ...

    def data(self, connection: Http2Connection, stream: Stream) -> None:
        """Take note that more of its body is there."""
        ...

    def complete(self, connection: Http2Connection, stream: Stream) -> None:
        """Answer it, now or later."""
        ...

    def refuse(self, connection: Http2Connection, stream: Stream, error: SalverError) -> None:
        """Answer a request that could not be read to its end."""
        ...


class Owner(Protocol):
    """What connections need of the server; for ``identify`` see the port of HTTP/1."""

    clock: Clock
    settings: HttpSettings
    draining: bool
    memory: PayloadMemory
    arrears: Arrears
    identify: Identify

    def opened(self, connection: Http2Connection) -> bool:
        """Admit a connection; False when there are too many."""
        ...

    def closed(self, connection: Http2Connection) -> None:
        """Forget a connection."""
        ...
