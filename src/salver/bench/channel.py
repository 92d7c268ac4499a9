"""One HTTP/2 connection with many gRPC calls in flight; of an answer only how it ended."""

import asyncio
from collections.abc import Iterable
from typing import Protocol, cast

from salver.bench import frames
from salver.bench.frames import MalformedAnswer, block_of, frame, head
from salver.bench.heads import DEADLINE_BYTES, TABLE_BYTES, Fields, Heads, deadline, fields_of
from salver.bench.outbox import Outbox
from salver.bench.record import BAD_ANSWER, CONNECT_FAILED, CONNECTION_LOST, OK, TIMEOUT, Record
from salver.bench.refusals import name_of
from salver.core.clock import Clock

_STATUS_200 = b"\x88"
_MAX_STREAM = 2**31 - 1
_MAX_BLOCK_BYTES = 65_536
_MAX_UNREAD_REPLIES = 10_000
_NO_HTTP2 = "its first bytes are no HTTP/2"
_H2 = "h2"

Entry = tuple[Record, int]


class Owner(Protocol):
    """Who lends channels out."""

    timeout_ns: int

    def ended(self, channel: "Channel") -> None:
        """Take note that one of a channel's calls has ended."""
        ...

    def refused(self, fields: Fields) -> None:
        """Take note of what a call was refused with."""
        ...

    def retired(self, channel: "Channel") -> None:
        """Give a channel no more calls."""
        ...


class Channel(asyncio.Protocol):
    """Sends messages as calls and notes in their record how they end.

    Calls wait until the server's settings are known. ``standing`` is set when they are, and when
    it is sure that they never will be; ``fault`` then says why.
    """

    def __init__(self, owner: Owner, heads: Heads, clock: Clock, streams: int) -> None:
        self._owner = owner
        self._heads = heads
        self._clock = clock
        self._reader = frames.FrameReader()
        self._outbox = Outbox()
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, Entry] = {}
        self._held: dict[int, bytes] = {}
        self._statuses: dict[int, bytes] = {}
        self._block: tuple[int, int, bytes] | None = None
        self._first = self._later = b""
        self._ok_block: bytes | None = None
        self._ready = False
        self._lost_as = ""
        self._next = 1
        self._received_ns = 0
        self._unread = 0
        self.streams = streams
        self.standing = asyncio.Event()
        self.fault = ""
        self.retired = False
        # Whether its owner has it among those with room.
        self.roomy = True

    @property
    def in_flight(self) -> int:
        """How many calls have not ended."""
        return len(self._calls)

    def send(self, record: Record, index: int, request: bytes) -> None:
        """Send a message as a call, at once or as soon as the connection stands."""
        record.sent_ns[index] = self._clock.monotonic_ns()
        stream = self._next
        self._next += 2
        self._calls[stream] = (record, index)
        if self._next > _MAX_STREAM:
            self._retire()
        if not self._ready or self._held:
            self._held[stream] = request
        else:
            self._begin(stream, request)

    def _begin(self, stream: int, message: bytes) -> None:
        record, index = self._calls[stream]
        left_ns = record.due_ns[index] + self._owner.timeout_ns - self._clock.monotonic_ns()
        block = self._first or self._later
        self._first = b""
        size = len(block) + DEADLINE_BYTES
        begun = (
            head(frames.HEADERS, frames.END_HEADERS, stream, size),
            block,
            deadline(left_ns),
        )
        record.bytes_sent += size + len(message) + 2 * frames.HEAD_BYTES
        self._write((*begun, *self._outbox.put(stream, message)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open HTTP/2; over TLS only where the server has agreed to it."""
        self._transport = cast("asyncio.Transport", transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != _H2:
            self._break("its TLS offers no HTTP/2 (ALPN h2)")
            return
        self._write((frames.opening(),))

    def connect_failed(self) -> None:
        """End the calls that waited for the connection."""
        self._retire()
        self._end_all(CONNECT_FAILED)

    def data_received(self, data: bytes) -> None:
        """Read as many answers as have come."""
        self._received_ns = self._clock.monotonic_ns()
        if self._calls:
            record, _ = next(iter(self._calls.values()))
            record.bytes_received += len(data)
        try:
            for kind, flags, stream, payload in self._reader.feed(data):
                if kind == frames.HEADERS and self._block is None:
                    self._headers(flags, stream, block_of(flags, payload))
                else:
                    self._other(kind, flags, stream, payload)
        except MalformedAnswer as error:
            self._break(str(error) if self._ready else _NO_HTTP2)
            return
        if self._reader.data_bytes > frames.MAX_WINDOW_BYTES // 2:
            self._write((frames.window_update(self._reader.data_bytes),))
            self._reader.data_bytes = 0

    def _headers(self, flags: int, stream: int, block: bytes) -> None:
        if not flags & frames.END_HEADERS:
            self._block = (stream, flags, block)
        elif flags & frames.END_STREAM:
            self._end_call(stream, block)
        elif block[:1] == _STATUS_200:
            if self._statuses:
                self._statuses.pop(stream, None)
        elif stream in self._calls:
            self._statuses[stream] = fields_of(block).get(b":status", b"")

    def _end_call(self, stream: int, block: bytes) -> None:
        entry = self._calls.get(stream)
        if entry is None:
            return
        if block == self._ok_block and stream not in self._statuses:
            self._end(stream, OK, self._received_ns)
            return
        fields = fields_of(block)
        http = self._statuses.get(stream) or fields.get(b":status", b"200")
        if fields.get(b"grpc-status") == b"0" and http == b"200":
            self._ok_block = block
            self._end(stream, OK, self._received_ns)
        else:
            if b":status" not in fields:
                fields = {**fields, b":status": http}
            self._owner.refused(fields)
            self._end(stream, entry[0].outcome_of(name_of(fields)), self._received_ns)

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None:
            self._continue(kind, flags, stream, payload)
        elif kind == frames.SETTINGS:
            if not flags & frames.ACK:
                self._settings(frames.settings_of(payload))
        elif not self._ready:
            raise MalformedAnswer(_NO_HTTP2)
        elif kind in (frames.RST_STREAM, frames.DATA):
            self._end_odd(kind, stream, payload)
        else:
            self._control(kind, flags, stream, payload)

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._write(self._outbox.grant(stream, int.from_bytes(payload, "big")))
        elif kind == frames.PING:
            if not flags & frames.ACK:
                self._reply(frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.GOAWAY:
            self._leave(int.from_bytes(payload[:4], "big"), frames.error_name(payload[4:]))
        elif kind in (frames.PUSH_PROMISE, frames.CONTINUATION):
            raise MalformedAnswer("a frame that was not asked for")

    def _end_odd(self, kind: int, stream: int, payload: bytes) -> None:
        """End a call that was reset, or whose answer ends without trailers."""
        if kind == frames.RST_STREAM:
            self._end_as(stream, f"stream_reset {frames.error_name(payload)}")
            return
        fields = {b":status": self._statuses.get(stream, b"200")}
        self._owner.refused(fields)
        self._end_as(stream, name_of(fields))

    def _continue(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert self._block is not None
        expected, first_flags, block = self._block
        block += payload
        if kind != frames.CONTINUATION or stream != expected or len(block) > _MAX_BLOCK_BYTES:
            raise MalformedAnswer("a header block is cut or too long")
        if flags & frames.END_HEADERS:
            self._block = None
            self._headers(first_flags | frames.END_HEADERS, stream, block)
        else:
            self._block = (expected, first_flags, block)

    def _settings(self, found: dict[int, int]) -> None:
        self._reply(frame(frames.SETTINGS, frames.ACK, 0, b""))
        allowed = found.get(frames.MAX_CONCURRENT_STREAMS)
        if allowed is not None:
            self.streams = min(self.streams, max(allowed, 1))
        if frames.MAX_FRAME_SIZE in found:
            self._outbox.frame_bytes = max(found[frames.MAX_FRAME_SIZE], frames.FIRST_FRAME_BYTES)
        table_bytes = found.get(frames.HEADER_TABLE_SIZE, TABLE_BYTES)
        if not self._ready or table_bytes < TABLE_BYTES:
            self._first, self._later = self._heads.blocks(table_bytes)
        if frames.INITIAL_WINDOW_SIZE in found:
            self._write(self._outbox.resize(found[frames.INITIAL_WINDOW_SIZE]))
        self._ready = True
        self.standing.set()
        self._begin_held()

    def _begin_held(self) -> None:
        begun = len(self._calls) - len(self._held)
        while self._held and begun < self.streams and self._ready:
            stream = next(iter(self._held))
            self._begin(stream, self._held.pop(stream))
            begun += 1

    def _leave(self, last: int, reason: str) -> None:
        """Take no more calls; those that the server has not begun end here."""
        if reason != "NO_ERROR":
            self._lost_as = f"connection_ended {reason}"
        self._retire()
        for stream in [number for number in self._calls if number > last]:
            self._end_lost(stream)
        self._close_when_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was in flight."""
        self.fault = self.fault or str(exc or "the server closed the connection")
        self._transport = None
        self._retire()
        for stream in list(self._calls):
            self._end_lost(stream)

    def give_up_late(self, oldest_ns: int) -> None:
        """End the calls that were sent before a moment; the others of the connection go on."""
        for stream, (record, index) in list(self._calls.items()):
            if record.sent_ns[index] > oldest_ns:
                return
            if stream not in self._held:
                reset = frame(frames.RST_STREAM, 0, stream, frames.CANCEL.to_bytes(4, "big"))
                self._write((reset,))
            self._end(stream, TIMEOUT, self._clock.monotonic_ns())

    def forget(self) -> None:
        """Note nothing more of the calls in flight."""
        self._calls.clear()
        self._held.clear()

    def abort(self) -> None:
        """Close without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()

    def _break(self, fault: str) -> None:
        self.fault = fault
        self._retire()
        self._end_all(BAD_ANSWER)
        self.abort()

    def _retire(self) -> None:
        if not self.retired:
            self.retired = True
            self.standing.set()
            self._owner.retired(self)

    def _close_when_idle(self) -> None:
        if self.retired and not self._calls and self._transport is not None:
            self._transport.close()

    def _end_lost(self, stream: int) -> None:
        if self._lost_as:
            self._end_as(stream, self._lost_as)
        else:
            self._end(stream, CONNECTION_LOST, self._clock.monotonic_ns())

    def _end_as(self, stream: int, name: str) -> None:
        entry = self._calls.get(stream)
        if entry is not None:
            self._end(stream, entry[0].outcome_of(name), self._received_ns)

    def _end_all(self, outcome: int) -> None:
        for stream in list(self._calls):
            self._end(stream, outcome, self._clock.monotonic_ns())

    def _end(self, stream: int, outcome: int, now_ns: int) -> None:
        record, index = self._calls.pop(stream)
        if self._held:
            self._held.pop(stream, None)
            self._begin_held()
        if self._statuses:
            self._statuses.pop(stream, None)
        self._outbox.forget(stream)
        record.finish(index, outcome, now_ns)
        self._owner.ended(self)
        if self.retired:
            self._close_when_idle()

    def _reply(self, answer: bytes) -> None:
        """Send what the server has asked for; one that asks and does not read is given up."""
        if self._transport is None or not self._transport.get_write_buffer_size():
            self._unread = 0
        self._unread += 1
        if self._unread > _MAX_UNREAD_REPLIES:
            raise MalformedAnswer("it asks and does not read")
        self._write((answer,))

    def _write(self, parts: Iterable[bytes | memoryview]) -> None:
        data = b"".join(parts)
        if data and self._transport is not None:
            self._transport.write(data)
