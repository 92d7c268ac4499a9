"""One client connection: bytes in, messages out, answers back in order.

httptools parses headers and small bodies. A large body of known length goes from the socket
straight into memory of its own (``large``).
"""

import asyncio
from typing import Final, cast

import httptools

from salver.core.errors import BodyTooLarge, MalformedHttp, Overloaded, SalverError
from salver.gateway.http.arrears import Unread
from salver.gateway.http.body import Body
from salver.gateway.http.framing import SINGLE_FIELDS, check_framing, piece_end
from salver.gateway.http.head_count import HeadCount
from salver.gateway.http.heads import Heads
from salver.gateway.http.large import LARGE_BODY_BYTES, LargeBody
from salver.gateway.http.message import HttpMessage
from salver.gateway.http.patience import LINGER_S, lateness
from salver.gateway.http.ports import Server
from salver.gateway.http.prelude import PREFACE, TELLING_BYTES
from salver.gateway.http.replies import Replies
from salver.gateway.http.unread import Taking

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpConnection(asyncio.Protocol):
    """Protocol of one connection.

    ``waiting_since_ns`` and ``phase`` tell the server's sweep which deadline applies: idle,
    headers, body, linger (refused, but still sending), or none while an answer is being made. The
    former is 0 where nobody has looked yet since the last answer. ``peer`` is the subject of the
    client's certificate, empty without one.
    """

    def __init__(self, server: Server, peer: str = "") -> None:
        self._server = server
        self._peer = peer
        self._settings = server.settings
        self._clock = server.clock
        self._heads = server.heads_of(peer)
        self._remembered: HttpMessage | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._current: HttpMessage | None = None
        self._queue = Replies()
        self._body = Body()
        self._ask_bytes = LARGE_BODY_BYTES
        self._head_count = HeadCount(server.settings)
        self._body_begun = False
        self._unfed = self._prelude = b""
        self._is_due = False
        self._taking = Taking(server.settings.body_timeout_s)
        self._large: LargeBody | None = None
        self._is_fresh = True
        self._failed = self._admitted = self._ended = False
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
        self._admitted = self._server.opened(self)
        if not self._admitted:
            self._refuse(
                Overloaded(
                    f"{self._settings.max_connections} connections are open, which is the limit",
                    retry_after_s=1.0,
                )
            )

    def data_received(self, data: bytes) -> None:
        """Take new bytes."""
        if self._is_over:
            # What follows a request that closes is not read, but the client may be sending still.
            self._failed = True
            return
        self.received_bytes += len(data)
        if self._unfed:
            self._unfed += data
            return
        if self.phase == "idle":
            if self._heads is not None and self._again(data, self._heads):
                return
            if self._is_fresh and (data[:1] == b"P" or self._prelude):
                data = self._prelude + data
                if self._is_http2(data):
                    return
                self._prelude = b""
            self._is_fresh, since_ns = False, self.waiting_since_ns
            self.phase, self.waiting_since_ns = "headers", self._clock.monotonic_ns()
            self._feed(data)
            self._remember(data)
            if self.phase == "headers" and self._current is None:
                # Nothing has begun: an empty line before a request is ignored (RFC 9112, 2.2).
                self.phase, self.waiting_since_ns = "idle", since_ns
        else:
            self._feed(data)
            self._remembered = None

    def _is_http2(self, data: bytes) -> bool:
        """Hand a client over that begins as HTTP/2 does (RFC 9113, 3.4), or wait for more."""
        if self._queue or not PREFACE.startswith(data[: len(PREFACE)]):
            return False
        if len(data) < TELLING_BYTES:
            self._prelude = data
            return True
        successor, transport = self._server.successor(self._peer), self._transport
        if successor is None or transport is None:
            return False
        self._server.closed(self)
        self._transport = None
        transport.set_protocol(cast(asyncio.Protocol, successor))
        successor.connection_made(transport)
        successor.data_received(data)
        return True

    def large_received(self, count: int) -> None:
        """Take note of new bytes of a large body."""
        self.received_bytes += count
        if self._large is not None and not self._large.missing_bytes:
            self._large_complete()

    def eof_received(self) -> bool:
        """A client that closes its side has left; what it asked for is cancelled."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handlers that nobody waits."""
        del exc
        self._server.closed(self)
        self._queue.forget()
        self._transport, self._large, self._unfed = None, None, b""
        self._let_go()

    def _let_go(self) -> None:
        """Keep nothing of a request; parser and connection hold each other until a collection."""
        self._current = self._remembered = None
        self._body = Body()

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
        self._current = HttpMessage(self, self._clock.monotonic_ns(), self._peer)
        self._head_count.begin()
        self._body_begun, self._ask_bytes = False, LARGE_BODY_BYTES
        self._body = Body()
        self.phase, self.waiting_since_ns = "headers", self._current.arrival_ns

    def on_url(self, url: bytes) -> None:
        """Take the target, which may come in pieces."""
        message = self._current
        assert message is not None
        message.target += url
        self._head_count.add(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field."""
        message = self._current
        assert message is not None
        self._head_count.field(name, value)
        if self._body_begun:
            # A trailer: it must not change what the headers have already been checked for.
            return
        key = name.lower()
        if key in SINGLE_FIELDS and key in message.headers:
            raise MalformedHttp(f"the header field {key.decode('latin-1')!r} was sent twice")
        message.headers[key] = value

    def on_headers_complete(self) -> None:
        """Check what the headers promise before any of the body is stored."""
        message = self._current
        assert message is not None
        message.method = self._parser.get_method()
        message.close = not self._parser.should_keep_alive()
        version = self._parser.get_http_version()
        message.keep = version == "1.0"
        headers = message.headers
        self._body_begun = True
        self._head_count.moved_on()
        check_framing(version, message.method, headers)
        length = int(headers.get(b"content-length", b"0"))
        if length > self._settings.max_body_bytes:
            raise BodyTooLarge(
                f"a body of {length} bytes is over the limit of {self._settings.max_body_bytes}"
            )
        if length >= LARGE_BODY_BYTES:
            # Nobody need wait for the body of a caller who will not be answered.
            self._server.identify(headers, self._peer)
        expects = headers.get(b"expect", b"").lower() == b"100-continue"
        if expects and not self._queue and self._transport is not None:
            self._transport.write(_CONTINUE)
        self.phase, self.waiting_since_ns = "body", self._clock.monotonic_ns()
        self.received_bytes = 0
        upgrade = self._parser.should_upgrade()
        if upgrade and b"transfer-encoding" in headers:
            raise MalformedHttp("a chunked body cannot follow an offer to upgrade")
        if length >= LARGE_BODY_BYTES or (upgrade and length):
            self._large = LargeBody(self, length, self._server.memory.body)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._large is not None:
            self._large.take(body)
            return
        size_bytes = self._body.size_bytes + len(body)
        if size_bytes > self._settings.max_body_bytes:
            raise BodyTooLarge(
                f"the body is over the limit of {self._settings.max_body_bytes} bytes"
            )
        if size_bytes >= self._ask_bytes:
            self._grow(size_bytes)
        self._body.add(body)

    def _grow(self, size_bytes: int) -> None:
        """Ask whether a body of unknown length may become large, and at each doubling again."""
        message = self._current
        assert message is not None
        self._server.identify(message.headers, self._peer)
        self._server.memory.let_in(size_bytes)
        self._ask_bytes = 2 * size_bytes

    def on_message_complete(self) -> None:
        """Hand the request over."""
        message, large = self._current, self._large
        assert message is not None
        if large is not None and large.missing_bytes:
            # httptools leaves a body behind an offer to upgrade to whoever accepts the offer.
            return
        message.body = self._body.whole() if large is None else large.memory
        self._end_large()
        self._let_go()
        self.phase, self._remembered, self._ended = "answer", message, message.close
        self._hand_over(message)

    def _hand_over(self, message: HttpMessage) -> None:
        if self._server.draining and not self._queue.close_after(message):
            self._ended = self._failed = True
            return
        self._queue.append(message)
        if len(self._queue) >= self._settings.max_pipelined:
            self._set_reading()
        self._server.handle(message)

    def _again(self, data: bytes, heads: Heads) -> bool:
        """Take a whole request whose head is known; False leaves it to the parser."""
        head = heads.begun(data)
        if head is None or self._server.draining:
            return False
        body = data[len(head.raw) :]
        if len(body) != head.length:
            return False
        message = HttpMessage(self, self._clock.monotonic_ns(), self._peer)
        message.method, message.target, message.headers = head.method, head.target, head.headers
        message.body, message.head = body, head
        self.phase = "answer"
        self._queue.append(message)
        self._server.handle(message)
        return True

    def _remember(self, data: bytes) -> None:
        """Keep the head of a request that came in one piece and keeps the connection."""
        message, self._remembered = self._remembered, None
        if message is not None and self._heads is not None:
            self._heads.learn(data, message)

    # answers

    def answered(self, large_bytes: int = 0) -> None:
        """Write the answers that are due, in the order of their requests."""
        queue, transport = self._queue, self._transport
        if transport is None:
            return
        if large_bytes:
            queue.held_bytes += large_bytes
            self._server.arrears.grew(large_bytes)
        if queue.write(transport):
            self._finish(transport)
            return
        if not queue and self.phase == "answer":
            self.phase, self.waiting_since_ns = "idle", 0
            if self._server.draining:
                transport.close()
                return
        if self._reading_paused or large_bytes:
            self._set_reading()

    def unread(self, now_ns: int) -> Unread:
        """See ``Debtor``."""
        return self._taking.unread(self._transport, self._queue.held_bytes, now_ns, now_ns)

    def _finish(self, transport: asyncio.Transport) -> None:
        """End the connection after its last answer.

        A client that is still sending would lose the answer to a reset if the socket were closed
        on its unread bytes, so those are read and forgotten for a while.
        """
        if (
            not self._failed
            or not self._admitted
            or transport.is_closing()
            or not transport.can_write_eof()
        ):
            transport.close()
            return
        transport.write_eof()
        self.phase, self.waiting_since_ns = "linger", self._clock.monotonic_ns()
        if self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()

    def begin_drain(self) -> None:
        """Announce with the last answer that is due that the connection closes."""
        self._queue.close_after_all()

    def expire(self, now_ns: int) -> None:
        """Close or refuse when the client has kept us waiting for too long."""
        settings = self._settings
        if self._transport is None:
            return
        if self._taking.is_stalled(self._transport, now_ns):
            self.abort()
            return
        if (self._reading_paused and self.phase != "linger") or not self.waiting_since_ns:
            # The client cannot be late while nobody reads what it sends.
            self.waiting_since_ns = now_ns
        waited_s = (now_ns - self.waiting_since_ns) / 1e9
        if self.phase == "idle" and waited_s > settings.idle_timeout_s:
            self.close_idle(now_ns)
        elif self.phase == "linger" and self._transport.get_write_buffer_size():
            self.waiting_since_ns = now_ns
        elif self.phase == "linger" and waited_s > LINGER_S:
            self.abort()
        else:
            error = lateness(self.phase, waited_s, self.received_bytes, settings)
            if error is not None:
                self._refuse(error)

    def close_idle(self, now_ns: int, grace_s: float = 0.0) -> None:
        """Close if nothing is being received or answered, and was not for ``grace_s``."""
        if not self.waiting_since_ns:
            self.waiting_since_ns = now_ns
        if (
            self._transport is not None
            and not self._queue
            and self.phase in ("idle", "answer")
            and now_ns - self.waiting_since_ns >= grace_s * 1e9
        ):
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _feed(self, data: bytes) -> None:
        """Take bytes about a request at a time; the rest waits while too many are unanswered."""
        view, start, end = memoryview(data), 0, len(data)
        transport = self._transport
        if transport is None:
            return
        while start < end and not (self._is_over or self._is_full or transport.is_closing()):
            missing_bytes = 0 if self._large is None else self._large.missing_bytes
            stop = piece_end(data, start, missing_bytes)
            self._feed_piece(view[start:stop])
            start = stop
        if start < end and not self._is_over:
            self._unfed = data[start:]
        elif self._large is not None:
            self._large.receive(transport)
        if self._unfed or self._reading_paused or self._is_full:
            self._set_reading()

    def _go_on(self) -> None:
        """Take what waited for answers to leave."""
        self._is_due = False
        if self._is_full:
            return
        data, self._unfed = self._unfed, b""
        try:
            self._feed(data)
        except Exception:
            # As where bytes come from the socket: what is behind them cannot be found any more.
            self.abort()
            raise
        self._remembered = None

    @property
    def _is_over(self) -> bool:
        """Tell whether nothing more is read of this client's requests."""
        return self._failed or self._ended

    @property
    def _is_full(self) -> bool:
        """Tell whether the answers that are due should leave before more is asked."""
        queue, settings = self._queue, self._settings
        if self._write_paused or len(queue) >= settings.max_pipelined:
            return True
        return queue.held_bytes > settings.write_buffer_bytes

    def _feed_piece(self, data: memoryview) -> None:
        known, phase, body_bytes = self._current, self.phase, self._body.size_bytes
        try:
            self._parse(data)
            if known is not None and self._current is known and self.phase == phase:
                is_field = phase == "headers" or b"transfer-encoding" in known.headers
                if is_field and self._body.size_bytes == body_bytes:
                    self._head_count.unfinished(len(data))
                else:
                    self._head_count.moved_on()
        except SalverError as error:
            self._refuse(error)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, SalverError):
                self._refuse(cause)
            else:
                raise
        except httptools.HttpParserError as error:
            self._refuse(MalformedHttp(f"the request is not valid HTTP/1.1: {error}"))

    def _parse(self, rest: memoryview) -> None:
        while rest and not self._is_over:
            if self._large is not None:
                taken = min(len(rest), self._large.missing_bytes)
                self._large.take(rest[:taken])
                rest = rest[taken:]
                if not self._large.missing_bytes:
                    self._large_complete()
                continue
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                # An offer to upgrade may be ignored (RFC 9110, 7.8); the connection goes on.
                self._parser = httptools.HttpRequestParser(self)
                rest = rest[upgrade.args[0] :]
            else:
                return

    def _large_complete(self) -> None:
        # httptools still counts on this body, so the next request gets a parser of its own.
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_complete()
        self._remembered = None

    def _end_large(self) -> None:
        large, self._large = self._large, None
        if large is not None and large.is_receiving and self._transport is not None:
            self._transport.set_protocol(self)

    def _refuse(self, error: SalverError) -> None:
        """Answer a broken request after those before it, and close."""
        self._failed = True
        if self._ended:
            return
        message = self._current or HttpMessage(self, self._clock.monotonic_ns())
        self._current = None
        self._end_large()
        message.close = True
        self._queue.append(message)
        self.phase = "answer"
        self._server.refuse(message, error)

    def _set_reading(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._unfed and not self._is_full and not self._is_due:
            # Whoever has just answered may be in the middle of its work.
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._go_on)
        paused = bool(self._unfed) or self._is_full
        if paused and not self._reading_paused:
            transport.pause_reading()
        elif not paused and self._reading_paused:
            transport.resume_reading()
        self._reading_paused = paused
