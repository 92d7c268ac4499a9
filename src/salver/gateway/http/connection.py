"""One client connection: bytes in, messages out, answers back in order.

httptools parses headers and small bodies. A large body of known length goes from the socket
straight into one buffer of its own; it is not touched before its bytes arrive, so that a header
alone does not occupy memory.
"""

import asyncio
import mmap
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from salver.core.clock import Clock
from salver.core.errors import (
    BodyTooLarge,
    HeadersTooLarge,
    MalformedHttp,
    ReadTimeout,
    SalverError,
)
from salver.core.settings import HttpSettings
from salver.gateway.http.heads import Head, Heads
from salver.gateway.http.message import HttpMessage

LARGE_BODY_BYTES = 64 * 1024
_RECEIVE_BYTES = 256 * 1024
_RATE_GRACE_S = 5.0
_HEAD_END = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Server(Protocol):
    """What connections need of the server."""

    settings: HttpSettings
    clock: Clock
    draining: bool
    heads: Heads | None

    def opened(self, connection: "HttpConnection") -> bool:
        """Admit a connection; False when there are too many."""
        ...

    def closed(self, connection: "HttpConnection") -> None:
        """Forget a connection."""
        ...

    def handle(self, message: HttpMessage) -> None:
        """Answer a complete request, now or later."""
        ...


_shared = bytearray(_RECEIVE_BYTES)
_shared_view = memoryview(_shared)


class HttpConnection(asyncio.BufferedProtocol):
    """Protocol of one connection.

    ``waiting_since_ns`` and ``phase`` tell the server's sweep which deadline applies: idle,
    headers, body, or none while an answer is being made.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._settings = server.settings
        self._clock = server.clock
        self._heads = server.heads
        self._remembered: HttpMessage | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._current: HttpMessage | None = None
        self._queue: deque[HttpMessage] = deque()
        self._parts: list[bytes] = []
        self._body_bytes = 0
        self._header_bytes = 0
        self._header_count = 0
        self._large: memoryview | None = None
        self._large_filled = 0
        self._failed = False
        self._reading_paused = False
        self._write_paused = False
        self.phase = "idle"
        self.waiting_since_ns = server.clock.monotonic_ns()
        self.received_bytes = 0

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be admitted, or close."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(self._settings.write_buffer_bytes)
        if not self._server.opened(self):
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go: the large body, or the buffer all connections share."""
        del sizehint
        if self._large is not None:
            return self._large[self._large_filled :]
        return _shared_view

    def buffer_updated(self, nbytes: int) -> None:
        """Take new bytes."""
        if self._failed:
            return
        self.received_bytes += nbytes
        if self._large is not None:
            self._large_filled += nbytes
            if self._large_filled == self._large.nbytes:
                self._large_complete()
            return
        data = bytes(_shared_view[:nbytes])
        if self.phase == "idle":
            if self._heads is not None and self._again(data):
                return
            self.phase, self.waiting_since_ns = "headers", self._clock.monotonic_ns()
            self._feed(data)
            self._remember(data)
        else:
            self._feed(data)

    def eof_received(self) -> bool:
        """A client that closes its side has left; what it asked for is cancelled."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handlers that nobody waits."""
        del exc
        self._server.closed(self)
        for message in self._queue:
            gone = cast("Callable[[], None] | None", message.on_gone)
            message.on_gone = None
            if gone is not None:
                gone()
        self._queue.clear()
        self._transport = None

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read."""
        self._write_paused = True
        self._set_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._write_paused = False
        self._set_reading()

    # httptools

    def on_message_begin(self) -> None:
        """Start a request."""
        self._current = HttpMessage(self, self._clock.monotonic_ns())
        self._header_bytes = self._header_count = self._body_bytes = 0
        self._parts.clear()
        self.phase, self.waiting_since_ns = "headers", self._current.arrival_ns

    def on_url(self, url: bytes) -> None:
        """Take the target, which may come in pieces."""
        message = self._current
        assert message is not None
        message.target += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field."""
        message = self._current
        assert message is not None
        self._header_count += 1
        self._count_header(len(name) + len(value) + 4)
        if self._header_count > self._settings.max_header_count:
            raise HeadersTooLarge(
                f"more than {self._settings.max_header_count} header fields were sent"
            )
        message.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Check what the headers promise before any of the body is stored."""
        message = self._current
        assert message is not None
        message.method = self._parser.get_method()
        message.close = not self._parser.should_keep_alive() or self._server.draining
        headers = message.headers
        encoding = headers.get(b"transfer-encoding")
        if encoding is not None and encoding.strip().lower() != b"chunked":
            raise MalformedHttp("the only transfer encoding that is read is 'chunked'")
        length = int(headers.get(b"content-length", b"0"))
        if length > self._settings.max_body_bytes:
            raise BodyTooLarge(
                f"a body of {length} bytes is over the limit of {self._settings.max_body_bytes}"
            )
        if headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            if not self._queue:
                self._transport.write(_CONTINUE)
        self.phase, self.waiting_since_ns = "body", self._clock.monotonic_ns()
        self.received_bytes = 0
        if length >= LARGE_BODY_BYTES:
            # Pages of an anonymous mapping take no memory until bytes are written to them.
            self._large = memoryview(mmap.mmap(-1, length))
            self._large_filled = 0

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._large is not None:
            end = self._large_filled + len(body)
            self._large[self._large_filled : end] = body
            self._large_filled = end
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._settings.max_body_bytes:
            raise BodyTooLarge(
                f"the body is over the limit of {self._settings.max_body_bytes} bytes"
            )
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Hand the request over."""
        message = self._current
        assert message is not None
        self._current = None
        large, self._large = self._large, None
        if large is not None:
            message.body = large
        elif len(self._parts) == 1:
            message.body = self._parts[0]
        else:
            message.body = b"".join(self._parts)
        self._parts.clear()
        self.phase = "answer"
        self._remembered = message
        self._hand_over(message)

    def _hand_over(self, message: HttpMessage) -> None:
        self._queue.append(message)
        if len(self._queue) >= self._settings.max_pipelined:
            self._set_reading()
        self._server.handle(message)

    def _again(self, data: bytes) -> bool:
        """Take a whole request whose head is known; False leaves it to the parser."""
        heads, end = self._heads, data.find(_HEAD_END) + len(_HEAD_END)
        head = heads.get(data[:end]) if heads is not None else None
        if head is None or len(data) - end != head.length or self._server.draining:
            return False
        message = HttpMessage(self, self._clock.monotonic_ns())
        message.method, message.target, message.headers, _ = head
        message.body = data[end:]
        self.phase = "answer"
        self._hand_over(message)
        return True

    def _remember(self, data: bytes) -> None:
        """Keep the head of a request that came in one piece and keeps the connection."""
        message, self._remembered = self._remembered, None
        if message is None or self._heads is None or message.close:
            return
        headers = message.headers
        end = data.find(_HEAD_END) + len(_HEAD_END)
        plain = b"transfer-encoding" not in headers and b"expect" not in headers
        length = len(message.body)
        if plain and len(data) - end == length and b"upgrade" not in headers:
            head = Head(message.method, message.target, headers, length)
            self._heads.remember(data[:end], head)

    # answers

    def answered(self, message: HttpMessage) -> None:
        """Write the answers that are due, in the order of their requests."""
        queue, transport = self._queue, self._transport
        if transport is None:
            return
        while queue and queue[0].reply is not None:
            head = queue.popleft()
            reply = cast("list[bytes]", head.reply)
            if len(reply) == 1:
                transport.write(reply[0])
            else:
                transport.writelines(reply)
            if head.close:
                transport.close()
                return
        if not queue and self.phase == "answer":
            self.phase, self.waiting_since_ns = "idle", self._clock.monotonic_ns()
            if self._server.draining:
                transport.close()
                return
        if self._reading_paused:
            self._set_reading()

    def expire(self, now_ns: int) -> None:
        """Close or refuse when the client has kept us waiting for too long."""
        settings = self._settings
        waited_s = (now_ns - self.waiting_since_ns) / 1e9
        if self.phase == "idle" and waited_s > settings.idle_timeout_s:
            self.close_idle()
        elif self.phase == "headers" and waited_s > settings.header_timeout_s:
            self._refuse(ReadTimeout("the headers did not arrive in time"))
        elif self.phase == "body" and (
            waited_s > settings.body_timeout_s
            or (
                waited_s > _RATE_GRACE_S
                and self.received_bytes
                < settings.min_body_rate_bytes_s * (waited_s - _RATE_GRACE_S)
            )
        ):
            self._refuse(ReadTimeout("the body did not arrive in time, or too slowly"))

    def close_idle(self) -> None:
        """Close if nothing is being received or answered."""
        if self._transport is not None and not self._queue and self.phase in ("idle", "answer"):
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(MalformedHttp("protocol upgrades are not supported"))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, SalverError):
                self._refuse(cause)
            else:
                raise
        except httptools.HttpParserError as error:
            self._refuse(MalformedHttp(f"the request is not valid HTTP/1.1: {error}"))

    def _large_complete(self) -> None:
        # httptools still counts on this body, so the next request gets a parser of its own.
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_complete()

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self._settings.max_header_bytes:
            raise HeadersTooLarge(
                f"request line and headers are over {self._settings.max_header_bytes} bytes"
            )

    def _refuse(self, error: SalverError) -> None:
        """Answer a broken request after those before it, and close."""
        self._failed = True
        message = self._current or HttpMessage(self, self._clock.monotonic_ns())
        self._current = None
        self._large = None
        message.close = True
        self._queue.append(message)
        self.phase = "answer"
        message.fail(error)

    def _set_reading(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        paused = self._write_paused or len(self._queue) >= self._settings.max_pipelined
        if paused and not self._reading_paused:
            transport.pause_reading()
        elif not paused and self._reading_paused:
            transport.resume_reading()
        self._reading_paused = paused
