"""The process's answers on its port: that it cannot open its database yet, then the API."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from salver.control.api.app import error_response
from salver.control.api.security import Guard
from salver.control.database import DatabaseThread
from salver.core.errors import ControlUnavailable, SalverError, StorageFull
from salver.observe.facts import Facts
from salver.observe.logs import get_logger

log = get_logger(__name__)

_LOOPBACK = "127.0.0.1"
_STOP_S = 5
_AGAIN_S = 0.5


async def until_open(
    provision: Callable[[], None], thread: DatabaseThread, token: str, listening: socket.socket
) -> None:
    """Open the database; until that works whoever asks anything is told why it does not.

    Raises what time does not mend, as ``InvalidSettings``.
    """
    desk: _Desk | None = None
    try:
        while True:
            try:
                await thread(provision)
                return
            except (ControlUnavailable, StorageFull) as error:
                log.error("database_not_open", code=error.code, cause=error.message)
                if desk is None:
                    desk = _Desk(token, listening)
                await desk.tell(error)
            await asyncio.sleep(_AGAIN_S)
    finally:
        if desk is not None:
            await desk.stop()


async def answer(app: ASGIApp, home: Path, listening: socket.socket) -> None:
    """Serve the API until SIGTERM."""
    server = _server(app)
    port = listening.getsockname()[1]
    facts = Facts(home / "run" / "control.json")
    facts.start({"url": f"http://{_LOOPBACK}:{port}", "pid": os.getpid()})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    try:
        # Whoever serves a socket closes it before its last answers. Clients send the home's token
        # to this port, so nobody else may have it until they are told that they no longer should.
        await server.serve(sockets=[listening.dup()])
    finally:
        await facts.stop()
        listening.close()


def _server(app: ASGIApp) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=_STOP_S,
    )
    return uvicorn.Server(config)


class _Desk:
    """Component that answers everything with the error that it was told last."""

    def __init__(self, token: str, listening: socket.socket) -> None:
        self._app = Guard(self._refuse, token, error_response)
        self._listening = listening
        self._error: SalverError = ControlUnavailable("the database is not open yet")
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def tell(self, error: SalverError) -> None:
        """Answer with this from now on."""
        self._error = error
        if self._task is None:
            self._server = _server(self._app)
            # Whoever serves a socket closes it in the end, and the API needs it afterwards.
            self._task = asyncio.create_task(self._server.serve(sockets=[self._listening.dup()]))
        elif self._task.done():
            # A signal has ended it.
            raise self._error

    async def stop(self) -> None:
        """Answer what was asked, and leave the port."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await error_response(self._error)(scope, receive, send)
