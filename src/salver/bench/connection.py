"""One kept-alive HTTP/1.1 connection: a request at a time, of the answer only what is counted."""

import asyncio
from typing import Any, Protocol, cast

import httptools
import orjson

from salver.bench.carrier import plain
from salver.bench.record import (
    BAD_ANSWER,
    CONNECT_FAILED,
    CONNECTION_LOST,
    OK,
    TIMEOUT,
    Record,
)
from salver.core.clock import Clock

_OK_STATUS = 200
_FIRST_FINAL_STATUS = 200
_KEPT_BYTES = 4096
_IDLE = -1


class Owner(Protocol):
    """Who lends connections out."""

    def released(self, connection: "Connection", *, reusable: bool) -> None:
        """Take a connection back whose request has ended."""
        ...

    def closed(self, connection: "Connection") -> None:
        """Forget a connection that had nothing to do when it ended."""
        ...


class Connection(asyncio.Protocol):
    """Sends prepared requests and notes in their record how they end.

    The moment an answer counts as there is when its last bytes are handed over by the loop.
    """

    def __init__(self, owner: Owner, clock: Clock) -> None:
        self._owner = owner
        self._clock = clock
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: bytes | None = None
        self._record: Record | None = None
        self._index = _IDLE
        self._kept = b""
        self._received_ns = 0

    def send(self, record: Record, index: int, request: bytes) -> None:
        """Send a request, at once or as soon as the connection stands."""
        self._record, self._index, self._kept = record, index, b""
        record.sent_ns[index] = self._clock.monotonic_ns()
        record.bytes_sent += len(request)
        if self._transport is None:
            self._waiting = request
        else:
            self._transport.write(request)

    @property
    def sent_ns(self) -> int:
        """When the request in flight was sent."""
        assert self._record is not None
        return self._record.sent_ns[self._index]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what waited; a request that has ended meanwhile needs the connection no more."""
        # The loop's own class does not say that it is one.
        self._transport = cast("asyncio.Transport", transport)
        if self._waiting is not None:
            self._transport.write(self._waiting)
            self._waiting = None

    def connect_failed(self) -> None:
        """End the request that waited for the connection."""
        self._end(CONNECT_FAILED, reusable=False)

    def data_received(self, data: bytes) -> None:
        """Read as much of the answer as has come."""
        self._received_ns = self._clock.monotonic_ns()
        if self._record is None:
            self.abort()
            return
        self._record.bytes_received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end(BAD_ANSWER, reusable=False)
            self.abort()

    def on_body(self, body: bytes) -> None:
        """Keep the beginning of a refusal, which holds its code."""
        if len(self._kept) < _KEPT_BYTES and self._parser.get_status_code() != _OK_STATUS:
            self._kept += body[: _KEPT_BYTES - len(self._kept)]

    def on_message_complete(self) -> None:
        """End the request with the answer's status and code."""
        status = self._parser.get_status_code()
        if status < _FIRST_FINAL_STATUS or self._record is None:
            return
        reusable = self._parser.should_keep_alive()
        outcome = OK if status == _OK_STATUS else self._record.outcome_of(self._name(status))
        self._end(outcome, reusable=reusable)
        if not reusable:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was in flight; an idle connection that ends is no failure."""
        del exc
        self._transport = None
        if self._record is None:
            self._owner.closed(self)
        else:
            self._end(CONNECTION_LOST, reusable=False)

    def give_up(self) -> None:
        """End the request in flight because it took too long."""
        self._end(TIMEOUT, reusable=False)
        self.abort()

    def forget(self) -> None:
        """Note nothing more of the request in flight."""
        self._record, self._index, self._waiting = None, _IDLE, None

    def abort(self) -> None:
        """Close without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()

    def _end(self, outcome: int, *, reusable: bool) -> None:
        record, index = self._record, self._index
        self.forget()
        if record is None:
            return
        answered = outcome == OK or outcome >= BAD_ANSWER
        now_ns = self._received_ns if answered else self._clock.monotonic_ns()
        record.finish(index, outcome, now_ns)
        self._owner.released(self, reusable=reusable)

    def _name(self, status: int) -> str:
        try:
            code = str(orjson.loads(self._kept)["code"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            code = ""
        return f"{status} {plain(code)}".rstrip()
