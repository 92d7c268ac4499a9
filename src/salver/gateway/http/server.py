"""The listening side: admits connections, sweeps for those that are late, drains."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from salver.core.clock import Clock
from salver.core.errors import SalverError
from salver.core.settings import HttpSettings
from salver.gateway.http.arrears import Arrears, Debtor
from salver.gateway.http.connection import HttpConnection
from salver.gateway.http.handshake import Handshake
from salver.gateway.http.heads import Heads, PeerHeads
from salver.gateway.http.memory import PayloadMemory
from salver.gateway.http.message import HttpMessage
from salver.gateway.http.newcomer import Newcomer
from salver.gateway.http.ports import Identify
from salver.gateway.http.prelude import Successor
from salver.observe.logs import get_logger

log = get_logger(__name__)

_SWEEP_S = 0.5
_DRAIN_POLL_S = 0.02
_ACTIVE_S = 0.1
_BACKLOG = 4096


def _refuse(message: HttpMessage, error: SalverError) -> None:
    message.fail(error)


class Connection(Debtor, Protocol):
    """What the server asks of its connections, whichever version of HTTP they speak."""

    def begin_drain(self) -> None:
        """Announce that the connection closes."""
        ...

    def close_idle(self, now_ns: int, grace_s: float = 0.0) -> None:
        """Close if nothing is open, and nothing was for ``grace_s``."""
        ...

    def expire(self, now_ns: int) -> None:
        """Close or refuse when the client has kept us waiting for too long."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class HttpServer:
    """Component that owns the connections of the listening sockets.

    ``successor`` makes the protocol for a client that speaks HTTP/2, given the subject of its
    certificate. ``identify`` says who may send large bodies. ``context`` gives the TLS context of
    the next connection; None is plain TCP. ``naming`` names clients without a certificate, where
    they are told apart.
    """

    def __init__(
        self,
        settings: HttpSettings,
        clock: Clock,
        handle: Callable[[HttpMessage], None],
        refuse: Callable[[HttpMessage, SalverError], None] = _refuse,
        memory: PayloadMemory | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.draining = False
        self.memory = memory or PayloadMemory(settings.kept_memory_bytes)
        self.handle: Callable[[HttpMessage], None] = handle
        self.refuse: Callable[[HttpMessage, SalverError], None] = refuse
        self.successor: Callable[[str], Successor | None] = lambda _: None
        self.identify: Identify = lambda _headers, _peer: None
        self.context: Callable[[], ssl.SSLContext] | None = None
        self.naming: Callable[[asyncio.BaseTransport], str] | None = None
        self.arrears = Arrears(settings.unread_bytes, self._bound)
        self._heads = PeerHeads() if settings.remember_heads else None
        self._connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    async def start(self, *listening: socket.socket) -> None:
        """Answer on sockets that are already bound."""
        loop = asyncio.get_running_loop()
        for bound in listening:
            self._servers.append(
                await loop.create_server(self._accept, sock=bound, backlog=_BACKLOG)
            )
        self._sweeper = asyncio.create_task(self._sweep())

    async def drain(self, timeout_s: float) -> None:
        """Close the listener first, then wait until the open requests are answered."""
        self.draining = True
        for connection in list(self._connections):
            connection.begin_drain()
        for server in self._servers:
            server.close()
        # The loop closes the sockets at its next turn; only then may idle clients be let go.
        await asyncio.sleep(0)
        deadline_ns = self.clock.monotonic_ns() + round(timeout_s * 1e9)
        while self._connections and self.clock.monotonic_ns() < deadline_ns:
            now_ns = self.clock.monotonic_ns()
            for connection in list(self._connections):
                # Who was answered a moment ago may have its next request on the way.
                connection.close_idle(now_ns, _ACTIVE_S)
            await asyncio.sleep(_DRAIN_POLL_S)

    async def stop(self) -> None:
        """Close everything."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.abort()

    def heads_of(self, peer: str) -> Heads | None:
        """Return the memory of heads for connections of this peer, None where there is none."""
        return self._heads.of(peer) if self._heads is not None else None

    def forget_heads(self) -> None:
        """Free what was remembered of heads; each is parsed once more."""
        if self._heads is not None:
            self._heads.forget()

    def _accept(self) -> asyncio.Protocol:
        if self.context is not None:
            return Handshake(self, self.context())
        return HttpConnection(self) if self.naming is None else Newcomer(self)

    def name_of(self, transport: asyncio.BaseTransport) -> str:
        """Return the name of a client that has not shown who it is; "" for all who have none."""
        return "" if self.naming is None else self.naming(transport)

    def made(self, peer: str, protocol: str | None) -> Successor:
        """Return the protocol of a connection after its handshake."""
        successor = self.successor(peer) if protocol == "h2" else None
        return successor or HttpConnection(self, peer)

    def opened(self, connection: Connection) -> bool:
        """Admit a connection unless there are too many."""
        if len(self._connections) >= self.settings.max_connections:
            return False
        self._connections.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    def _bound(self) -> None:
        """Close those who do not read while too much waits for all of them."""
        closed = self.arrears.excess(self._connections, self.clock.monotonic_ns())
        for connection in closed:
            # What it holds is gone with its transport, before that says so.
            self._connections.discard(connection)
            connection.abort()
        if closed:
            log.warning("unread_cut_off", connections=len(closed))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.memory.sweep()
            now_ns = self.clock.monotonic_ns()
            for connection in list(self._connections):
                try:
                    connection.expire(now_ns)
                except Exception:  # the others must be looked at as well
                    log.exception("expiry_failed")
                    connection.abort()
            self._bound()
