"""How a client that speaks HTTP/2 begins, and who takes it over."""

import asyncio
from typing import Protocol

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TELLING_BYTES = 3
"""So many bytes tell: no method of HTTP/1.1 begins like this."""


class Successor(Protocol):
    """A protocol that takes a connection over; see ``asyncio.Protocol``."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over."""
        ...

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        ...
