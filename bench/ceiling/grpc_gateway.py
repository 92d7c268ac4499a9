"""Gateway of the ceiling for gRPC: HTTP/2 frames on uvloop, rows to the worker.

No key check, no routing, no validation, no metrics, and none of the protections that a public
server needs: the client's windows are taken for wide enough, and a header block for one frame.
Rows that arrive in one loop turn leave for the worker as one write.
Run: `python -m bench.ceiling.grpc_gateway SOCKET PORT`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from bench.ceiling import http2
from bench.ceiling.link import WorkerLink
from bench.ceiling.messages import ModelInferRequest
from bench.ceiling.wire import ANSWER
from bench.grpc_message import PREFIX_BYTES, bytes_field, infer_answer_head, with_prefix

LABEL_BYTES = 8
_OUTPUTS = (("label", "INT64", (1,)), ("probabilities", "FP32", (1, 2)))
# The answer of a stream without the four bytes of its number, which follow each piece.
_SAMPLE = with_prefix(
    infer_answer_head("tabular", _OUTPUTS)
    + bytes_field(6, bytes(LABEL_BYTES))
    + bytes_field(6, bytes(ANSWER.size - LABEL_BYTES))
)
_RAW_TAG = bytes_field(6, bytes(LABEL_BYTES))[:2]
_MESSAGE_HEAD = _SAMPLE[: -ANSWER.size - len(_RAW_TAG)]
_NUMBER_BYTES = 4
_FIELDS = b"\x88\x0f\x10\x10application/grpc"
TRAILERS = b"\x00\x0bgrpc-status\x010"
_ENDING = http2.END_HEADERS | http2.END_STREAM
HEADERS_HEAD = http2.frame(http2.HEADERS, http2.END_HEADERS, 0, _FIELDS)[:5]
DATA_HEAD = _FIELDS + http2.frame(http2.DATA, 0, 0, _SAMPLE)[:5]
TRAILERS_HEAD = http2.frame(http2.HEADERS, _ENDING, 0, TRAILERS)[:5]


class Call:
    """One stream that waits for its answer."""

    __slots__ = ("_connection", "_number")

    def __init__(self, connection: Connection, number: bytes) -> None:
        self._connection = connection
        self._number = number

    def answer(self, payload: bytes) -> None:
        """Send headers, message and trailers."""
        number = self._number
        label, pair = payload[:LABEL_BYTES], payload[LABEL_BYTES:]
        self._connection.send(
            b"".join(
                (
                    HEADERS_HEAD,
                    number,
                    DATA_HEAD,
                    number,
                    _MESSAGE_HEAD,
                    label,
                    _RAW_TAG,
                    pair,
                    TRAILERS_HEAD,
                    number,
                    TRAILERS,
                )
            )
        )


class Connection(asyncio.Protocol):
    """One HTTP/2 connection."""

    def __init__(self, link: WorkerLink, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._loop = loop
        self._frames = http2.FrameReader()
        self._blocks = http2.HeaderBlocks()
        self._bodies: dict[int, bytes] = {}
        self._preface = b""
        self._begun = False
        self._received_bytes = 0
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the settings."""
        self._transport = cast(asyncio.Transport, transport)
        self.send(http2.opening())

    def send(self, data: bytes) -> None:
        """Write with all that this loop turn has for the client."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        """Read frames."""
        if not self._begun:
            data = self._preface + data
            if len(data) < len(http2.PREFACE):
                self._preface = data
                return
            self._begun, data = True, data[len(http2.PREFACE) :]
        for kind, flags, stream, payload in self._frames.feed(data):
            if kind == http2.DATA:
                self._body(stream, flags, payload)
            elif kind == http2.HEADERS:
                self._blocks.decode(http2.block_of(flags, payload))
            elif kind in (http2.SETTINGS, http2.PING) and not flags & http2.ACK:
                echo = payload if kind == http2.PING else b""
                self.send(http2.frame(kind, http2.ACK, 0, echo))

    def _body(self, stream: int, flags: int, payload: bytes) -> None:
        self._received_bytes += len(payload)
        if self._received_bytes > http2.WINDOW_STEP_BYTES // 2:
            self.send(http2.window_update(self._received_bytes))
            self._received_bytes = 0
        if self._bodies:
            payload = self._bodies.pop(stream, b"") + payload
        if not flags & http2.END_STREAM:
            self._bodies[stream] = payload
            return
        request = ModelInferRequest.FromString(payload[PREFIX_BYTES:])
        call = Call(self, stream.to_bytes(_NUMBER_BYTES, "big"))
        self._link.ask(call, request.raw_input_contents[0])


async def serve(path: str, port: int) -> None:
    """Connect to the worker, then listen until the process is ended."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(lambda: WorkerLink(loop), path)
    server = await loop.create_server(lambda: Connection(link, loop), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
