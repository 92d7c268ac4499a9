"""A connection before HTTP: the TLS handshake, bounded in number and time."""

import asyncio
import os
import socket
import ssl
from typing import Any, Protocol, cast

from salver.core.clock import Clock
from salver.core.settings import HttpSettings
from salver.gateway.http.arrears import Unread
from salver.gateway.http.prelude import Successor
from salver.observe.logs import get_logger

log = get_logger(__name__)

# It runs from the close on, however much is still to be read, so that the server's sweep is left to
# end what takes too long: that sees whether the client reads (``unread``).
_SHUTDOWN_TIMEOUT_S = 86_400.0


class Server(Protocol):
    """What a handshake needs of the server."""

    settings: HttpSettings
    clock: Clock

    def opened(self, connection: "Handshake") -> bool:
        """Admit a connection; False when there are too many."""
        ...

    def closed(self, connection: "Handshake") -> None:
        """Forget a connection."""
        ...

    def name_of(self, transport: asyncio.BaseTransport) -> str:
        """Return the name of a client that has not shown who it is."""
        ...

    def made(self, peer: str, protocol: str | None) -> Successor:
        """Return what takes the connection over: who the client is, what it wants to speak."""
        ...


class _Arrival(asyncio.Protocol):
    """Protocol of a connection whose handshake is done: hands it over before the first byte."""

    def __init__(self, server: Server, handshake: "Handshake") -> None:
        self._server = server
        self._handshake = handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find out who the client is and what it wants to speak."""
        tls = transport.get_extra_info("ssl_object")
        peer = subject_of(tls.getpeercert()) or self._server.name_of(transport)
        protocol = self._server.made(peer, tls.selected_alpn_protocol())
        # Its place is for the protocol that follows.
        self._server.closed(self._handshake)
        cast(asyncio.Transport, transport).set_protocol(cast(asyncio.Protocol, protocol))
        protocol.connection_made(transport)


class Handshake(asyncio.Protocol):
    """Protocol of a TCP connection until TLS is agreed on.

    It counts as an open connection, so that handshakes in progress are bounded as those are. A
    client that needs longer for it than for its headers, or that cannot be trusted, is cut off.
    """

    def __init__(self, server: Server, context: ssl.SSLContext) -> None:
        self._server = server
        self._context = context
        self._begun_ns = server.clock.monotonic_ns()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or close when there are too many.

        The socket changes hands before anything is read from it: a transport that was accepted as
        plain begins to read after this call, and its first bytes would miss the handshake.
        """
        plain = cast(asyncio.Transport, transport)
        if self._server.opened(self):
            try:
                accepted = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            except OSError:
                self._server.closed(self)
            else:
                self._task = asyncio.create_task(self._run(accepted))
                self._task.add_done_callback(lambda task: self._ended(task, accepted))
        plain.abort()

    async def _run(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Arrival(self._server, self),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._server.settings.header_timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
            )
        except OSError as error:
            log.debug("tls_handshake_failed", cause=_cause(error))

    def _ended(self, task: asyncio.Task[None], accepted: socket.socket) -> None:
        self._server.closed(self)
        if task.cancelled():
            # It may have been cancelled before the socket had another owner.
            accepted.close()

    # the server's sweep

    def unread(self, now_ns: int) -> Unread:
        """Nothing waits for a client that cannot ask yet."""
        return Unread(0, now_ns)

    def begin_drain(self) -> None:
        """Nothing was asked yet."""

    def close_idle(self, now_ns: int, grace_s: float = 0.0) -> None:
        """Close, unless the client has come only just now."""
        if now_ns - self._begun_ns >= grace_s * 1e9:
            self.abort()

    def expire(self, now_ns: int) -> None:
        """Time is kept by the handshake itself."""

    def abort(self) -> None:
        """Close at once."""
        if self._task is not None:
            self._task.cancel()


def subject_of(certificate: dict[str, Any] | None) -> str:
    """Return the name in a verified certificate, as ``getpeercert`` gives it; "" without one.

    It is the common name; where there is not exactly one, the first URI, then the first DNS name
    of the alternative names.
    """
    if not certificate:
        return ""
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    names = [value for kind, value in pairs if kind == "commonName"]
    if len(names) == 1 and names[0]:
        return str(names[0])
    for wanted in ("URI", "DNS"):
        for kind, value in certificate.get("subjectAltName", ()):
            if kind == wanted and value:
                return str(value)
    return ""


def _cause(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error.strerror or type(error).__name__)
