"""A plain connection before HTTP, where clients are named after their address."""

import asyncio
from typing import Protocol, cast

from salver.gateway.http.prelude import Successor


class Server(Protocol):
    """What is asked of the server."""

    def name_of(self, transport: asyncio.BaseTransport) -> str:
        """Return the name of a client that has not shown who it is."""
        ...

    def made(self, peer: str, protocol: str | None) -> Successor:
        """Return what takes the connection over: who the client is, what it wants to speak."""
        ...


class Newcomer(asyncio.Protocol):
    """Protocol of a connection until its client's address is known, which is at once."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection over before its first byte."""
        protocol = self._server.made(self._server.name_of(transport), None)
        cast(asyncio.Transport, transport).set_protocol(cast(asyncio.Protocol, protocol))
        protocol.connection_made(transport)
