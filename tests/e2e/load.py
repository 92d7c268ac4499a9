"""Steady traffic over many kept-alive connections, every answer checked."""

import asyncio
import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

import orjson


class Load:
    """Callers that each ask for the double of their own numbers, until stopped.

    ``failed`` counts answers by status and code, ``broken`` requests whose connection died before
    their answer, ``cut`` those of them that had a part of it, ``refused`` connections that could
    not be opened, ``wrong`` answers that belong to somebody else. ``field`` is a header that each
    request has besides. A context manager.
    """

    def __init__(
        self,
        port: int,
        endpoint: str,
        connections: int = 64,
        pause_s: float = 0.02,
        field: str = "",
    ) -> None:
        self._head = f"POST /v2/models/{endpoint}/infer HTTP/1.1\r\nHost: t\r\n"
        self._head += f"{field}\r\n" if field else ""
        self.answered = 0
        self.wrong = 0
        self.broken = 0
        self.cut = 0
        self.refused = 0
        self.failed: Counter[str] = Counter()
        self.factors: Counter[float] = Counter()
        self._port = port
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
                self.refused += 1
                await asyncio.sleep(self._pause_s)
                continue
            try:
                goes_on = True
                while goes_on and not self._stopping:
                    number += 1
                    goes_on = await self._ask(reader, writer, number)
                    await asyncio.sleep(self._pause_s)
            except OSError:
                self.broken += 1
            except asyncio.IncompleteReadError as error:
                self.broken += 1
                self.cut += bool(error.partial)
            finally:
                writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: float
    ) -> bool:
        """Ask once; returns whether the connection may be used again."""
        body = orjson.dumps(
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number]}]}
        )
        head = f"{self._head}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        fields = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(fields.split(b"content-length: ")[1].split(b"\r\n")[0])
        document = await self._document(reader, length)
        status = fields.split(b" ", 2)[1].decode()
        self._count(status, document, number, retry=b"retry-after" in fields)
        return b"connection: close" not in fields

    async def _document(self, reader: asyncio.StreamReader, length: int) -> Any:
        try:
            return orjson.loads(await reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError) as error:
            # The head has come, so the answer is cut even where nothing of the body has.
            self.cut += not getattr(error, "partial", b"")
            raise

    def _count(self, status: str, document: Any, number: float, *, retry: bool) -> None:
        if status != "200":
            self.failed[f"{status} {document['code']} {'retry-after' * retry}".strip()] += 1
            return
        self.answered += 1
        factor = document["outputs"][0]["data"][0] / number
        if factor not in (1.0, 2.0, 3.0):
            self.wrong += 1
        self.factors[factor] += 1


def assert_unharmed(load: Load) -> None:
    """Every request was answered, rightly."""
    assert load.answered > 0
    assert not load.failed
    assert load.broken == 0
    assert load.refused == 0
    assert load.wrong == 0
