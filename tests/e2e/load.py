"""Steady traffic over many kept-alive connections, every answer checked."""

import asyncio
import threading
from collections import Counter
from types import TracebackType
from typing import Self

import orjson


class Load:
    """Callers that each ask for the double of their own numbers, until stopped.

    ``failed`` counts answers by status and code, ``broken`` connections that died in the middle,
    ``wrong`` answers that belong to somebody else. A context manager.
    """

    def __init__(
        self, port: int, endpoint: str, connections: int = 64, pause_s: float = 0.02
    ) -> None:
        self.answered = 0
        self.wrong = 0
        self.broken = 0
        self.failed: Counter[str] = Counter()
        self.factors: Counter[float] = Counter()
        self._port = port
        self._path = f"/v2/models/{endpoint}/infer"
        self._connections = connections
        self._pause_s = pause_s
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End and wait for the last answers."""
        self._stopping = True
        self._thread.join(timeout=60)
        assert not self._thread.is_alive(), "a request was never answered"

    async def _run(self) -> None:
        await asyncio.gather(*(self._caller(index) for index in range(self._connections)))

    async def _caller(self, index: int) -> None:
        number = index * 1000.0
        while not self._stopping:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self.broken += 1
                await asyncio.sleep(self._pause_s)
                continue
            try:
                while not self._stopping:
                    number += 1
                    await self._ask(reader, writer, number)
                    await asyncio.sleep(self._pause_s)
            except (OSError, asyncio.IncompleteReadError):
                self.broken += 1
            finally:
                writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: float
    ) -> None:
        body = orjson.dumps(
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number]}]}
        )
        head = f"POST {self._path} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        fields = await reader.readuntil(b"\r\n\r\n")
        length = int(fields.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        document = orjson.loads(await reader.readexactly(length))
        status = fields.split(b" ", 2)[1].decode()
        if status != "200":
            retry = "retry-after" if b"retry-after" in fields.lower() else ""
            self.failed[f"{status} {document['code']} {retry}".strip()] += 1
            return
        self.answered += 1
        factor = document["outputs"][0]["data"][0] / number
        if factor not in (1.0, 2.0, 3.0):
            self.wrong += 1
        self.factors[factor] += 1
