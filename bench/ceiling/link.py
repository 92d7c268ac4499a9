"""The gateway's side of the Unix socket: rows to the worker, answers back to who asked."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from bench.ceiling.wire import HEADER, FrameBuffer


class Asker(Protocol):
    """Whoever waits for one answer."""

    def answer(self, payload: bytes) -> None:
        """Take the answer, packed as `bench.ceiling.wire.ANSWER`."""


class WorkerLink(asyncio.Protocol):
    """The connection to the worker; remembers which client waits for which frame."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._frames = FrameBuffer()
        self._pending: list[bytes] = []
        self._waiting: dict[int, Asker] = {}
        self._last_id = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the rows."""
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, client: Asker, row: bytes) -> None:
        """Send `row` with all others of this loop turn; `client.answer` gets the result."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._last_id = frame_id = (self._last_id + 1) & 0xFFFFFFFF
        self._waiting[frame_id] = client
        self._pending.append(HEADER.pack(frame_id, len(row)))
        self._pending.append(row)

    def _flush(self) -> None:
        self._transport.write(b"".join(self._pending))
        self._pending.clear()

    def data_received(self, data: bytes) -> None:
        """Hand each answer to its client."""
        for frame_id, payload in self._frames.feed(data):
            self._waiting.pop(frame_id).answer(payload)
