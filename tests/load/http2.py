"""A small gRPC server on the `h2` library whose answers a test decides, one by one."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.settings

from salver.bench.target import Target

MESSAGE = b"\0\0\0\0\x02ab"
HEAD = [(":status", "200"), ("content-type", "application/grpc"), ("x-salver-request-id", "r")]
FIRST_BYTES = 65_535


@dataclass
class Call:
    """One call as it came: its number from 1 on, its fields, and its body once it is whole."""

    number: int
    stream: int
    fields: dict[str, str]
    body: bytearray = field(default_factory=bytearray)


class Peer(asyncio.Protocol):
    """One connection of the server; what it may be told to do is up to a test."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self.calls: dict[int, Call] = {}
        self.reset: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send this server's settings."""
        self.transport: Any = transport
        self.server.peers.append(self)
        values: dict[Any, int] = dict(self.h2.local_settings.items())
        values.update(self.server.settings)
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=values)
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Let the library judge what came, and ask the test what to answer."""
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._begun(event)
            elif isinstance(event, h2.events.DataReceived):
                self.calls[event.stream_id].body += event.data
                if self.server.grants:
                    size = event.flow_controlled_length
                    self.h2.acknowledge_received_data(size, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.server.answer(self, self.calls[event.stream_id])
            elif isinstance(event, h2.events.StreamReset):
                self.reset.append(event.stream_id)
                self.calls.pop(event.stream_id, None)
        self.flush()

    def _begun(self, event: Any) -> None:
        server = self.server
        server.arrived += 1
        self.calls[event.stream_id] = Call(server.arrived, event.stream_id, dict(event.headers))
        server.most_open = max(server.most_open, self.h2.open_inbound_streams)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        del exc
        self.server.peers.remove(self)

    def ok(self, call: Call) -> None:
        """Answer a call right."""
        self.calls.pop(call.stream, None)
        self.h2.send_headers(call.stream, HEAD)
        self.h2.send_data(call.stream, MESSAGE)
        self.h2.send_headers(call.stream, [("grpc-status", "0")], end_stream=True)
        self.flush()

    def refuse(self, call: Call, status: int, **fields: str) -> None:
        """Answer with trailers alone."""
        more = [(name.replace("_", "-"), value) for name, value in fields.items()]
        block = [*HEAD[:2], ("grpc-status", str(status)), *more]
        self.h2.send_headers(call.stream, block, end_stream=True)
        self.flush()

    def flush(self) -> None:
        """Send what the library has to send."""
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)


Answer = Callable[[Peer, Call], None]


class Server:
    """Asks ``answer`` what to do about each whole call; a context manager.

    ``settings`` are what it tells of itself; with ``grants`` windows are widened as bytes come.
    """

    def __init__(
        self,
        answer: Answer,
        settings: dict[Any, int] | None = None,
        tls: ssl.SSLContext | None = None,
        *,
        grants: bool = True,
    ) -> None:
        self.answer = answer
        self.settings = settings or {}
        self.grants = grants
        self.arrived = self.most_open = 0
        self.peers: list[Peer] = []
        self._tls = tls
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        await self._turns()
        for peer in list(self.peers):
            peer.transport.abort()
        await self._turns()
        await self._server.wait_closed()

    async def _turns(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def target(self) -> Target:
        """Where it listens."""
        assert self._server is not None
        return Target("localhost", "127.0.0.1", self._server.sockets[0].getsockname()[1])
