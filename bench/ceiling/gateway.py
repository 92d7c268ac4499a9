"""Gateway of the ceiling: httptools on uvloop, JSON in and out, rows to the worker.

No key check, no routing, no validation, no metrics: what remains is the price of the shape itself.
Rows that arrive in one loop turn leave for the worker as one write.
Run: `python -m bench.ceiling.gateway SOCKET PORT`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools
import numpy as np
import orjson
import uvloop

from bench.ceiling.link import WorkerLink
from bench.ceiling.wire import ANSWER

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Client(asyncio.Protocol):
    """One HTTP connection."""

    def __init__(self, link: WorkerLink) -> None:
        self._link = link
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start a parser for this connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Parse; httptools calls the `on_*` methods."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        """Decode the JSON and send the row to the worker."""
        row = np.array(orjson.loads(self._body)["inputs"][0]["data"], np.float32)
        self._body = b""
        self._link.ask(self, row.tobytes())

    def answer(self, payload: bytes) -> None:
        """Write the OIP answer, unless the caller has left."""
        if self._transport.is_closing():
            return
        label, *pair = ANSWER.unpack(payload)
        body = orjson.dumps(
            {
                "model_name": "tabular",
                "outputs": [
                    {"name": "label", "datatype": "INT64", "shape": [1], "data": [label]},
                    {"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": pair},
                ],
            }
        )
        self._transport.write(HEAD % len(body) + body)


async def serve(path: str, port: int) -> None:
    """Connect to the worker, then listen until the process is ended."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(lambda: WorkerLink(loop), path)
    server = await loop.create_server(lambda: Client(link), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
