"""A real HTTP server on loopback that webhooks are told by tests to call."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self


class Told(NamedTuple):
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def facts(self) -> dict[str, Any]:
        """The body's document."""
        document: dict[str, Any] = json.loads(self.body)
        return document


class Reply(NamedTuple):
    """What is answered, and after how long."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    after_s: float = 0.0


class Server(ThreadingHTTPServer):
    """Threads end with the test."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of callers that left."""


class Receiver:
    """Answers what ``answer`` says, by the number of the request (from 0); a context manager."""

    def __init__(
        self,
        answer: Callable[[int, Told], Reply] = lambda _number, _told: Reply(),
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.told: list[Told] = []
        self.names: list[str | None] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                told = Told(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                receiver.told.append(told)
                reply = answer(len(receiver.told) - 1, told)
                time.sleep(reply.after_s)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_arguments: object) -> None:
                """Print nothing."""

        Server.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = Server((host, 0), Handler)
        if context is not None:
            context.sni_callback = lambda _socket, name, _context: self.names.append(name)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        """Begin to answer."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
