"""A gateway's own metrics and health, on a loopback port of its own."""

import asyncio
from collections.abc import Callable

from salver.core.clock import Clock
from salver.core.errors import RouteNotFound
from salver.core.settings import HttpSettings
from salver.gateway.http.connection import HttpConnection
from salver.gateway.http.message import HttpMessage
from salver.gateway.http.server import HttpServer
from salver.observe.prometheus import CONTENT_TYPE


class AdminServer:
    """Component that answers ``/metrics`` and ``/healthz``."""

    def __init__(self, settings: HttpSettings, clock: Clock, metrics: Callable[[], bytes]) -> None:
        self._metrics = metrics
        self._server = HttpServer(settings, clock, self._handle)
        self._listener: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on any free loopback port and return it."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: HttpConnection(self._server), "127.0.0.1", 0
        )
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close everything."""
        if self._listener is not None:
            self._listener.close()
        await self._server.stop()

    def _handle(self, message: HttpMessage) -> None:
        path = message.target.split(b"?", 1)[0]
        if path == b"/metrics":
            message.respond(200, (self._metrics(),), CONTENT_TYPE.encode())
        elif path == b"/healthz":
            message.respond(200, (b'{"ok":true}',))
        else:
            message.fail(RouteNotFound("this port has /metrics and /healthz"))
