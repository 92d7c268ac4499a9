"""A small HTTP server whose answers a test decides, one by one, in order of arrival."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from salver.bench.target import Target

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def refusal(status: int, body: bytes) -> bytes:
    """Return a whole answer with another status than 200."""
    head = f"HTTP/1.1 {status} No\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Server:
    """Asks ``answer`` what to send for the n-th request; None closes the connection.

    ``arrived`` counts requests, ``most_open`` the connections that were open at once.
    """

    def __init__(
        self, answer: Callable[[int], Awaitable[bytes | None]], tls: ssl.SSLContext | None = None
    ) -> None:
        self.arrived = 0
        self.bodies: list[bytes] = []
        self.most_open = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answer = answer
        self._tls = tls
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, backlog=512, ssl=self._tls
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the listener and every connection."""
        assert self._server is not None
        self._server.close()
        # Connections that were accepted just now get their tasks in the loop's next turns.
        await _turns()
        tasks, writers = list(self._tasks), list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await self._server.wait_closed()
        # Transports close their sockets in the loop's next turns.
        await _turns()

    @property
    def target(self) -> Target:
        """Where it listens."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return Target("localhost", "127.0.0.1", port)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.most_open = max(self.most_open, len(self._open))
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                self.arrived += 1
                answer = await self._answer(self.arrived)
                if answer is None:
                    return
                writer.write(answer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self._open.discard(writer)
            writer.close()


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
