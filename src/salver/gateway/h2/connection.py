"""One HTTP/2 connection: frames in, requests out.

Each check names the section of RFC 9113 that asks for it; what a client may cost is bounded.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, cast

from salver.core.errors import HeadersTooLarge, ReadTimeout, SalverError
from salver.core.settings import Http2Settings
from salver.gateway.h2 import frames as f
from salver.gateway.h2.budget import Budget
from salver.gateway.h2.control import ControlFrames, spend
from salver.gateway.h2.data import DataFrames, too_large
from salver.gateway.h2.gate import Gate
from salver.gateway.h2.headers import (
    HeaderDecoder,
    announced_bytes,
    check_trailers,
    malformed,
    request_fields,
    status,
)
from salver.gateway.h2.large import LargeReads
from salver.gateway.h2.output import Output
from salver.gateway.h2.patience import Patience
from salver.gateway.h2.ports import Application, Owner
from salver.gateway.h2.reader import FrameReader, HeaderBlock
from salver.gateway.h2.skim import ListTooLong, Skimmer
from salver.gateway.h2.stream import Stream
from salver.gateway.h2.windows import ReceiveWindows
from salver.gateway.http.arrears import Unread
from salver.gateway.http.body import Body, Buffer

_MAX_REMEMBERED_RESETS: Final = 1024
# So long, `max_streams` bound the rate of those that are given up later.
_HASTY_NS: Final = 1_000_000_000


class Http2Connection(asyncio.Protocol):
    """Protocol of one connection whose client has sent the preface, or is about to.

    ``peer`` is the subject of the client's certificate, empty without one.
    """

    def __init__(
        self, owner: Owner, limits: Http2Settings, application: Application, peer: str = ""
    ) -> None:
        settings = owner.settings
        self.peer = peer
        self.allocate = owner.memory.body
        self._owner = owner
        self._clock = owner.clock
        self._http = settings
        self._limits = limits
        self._application = application
        self._decoder = HeaderDecoder(settings.max_header_bytes)
        self._transport: asyncio.Transport | None = None
        self.output = Output(self._sent, owner.arrears.grew, owner.clock)
        self._streams: dict[int, Stream] = {}
        self._reset: dict[int, None] = {}
        self._block = HeaderBlock(settings.max_header_bytes, self._decoder.skim)
        self._block_since_ns = 0
        self._windows = ReceiveWindows(
            self.output.put,
            self._streams,
            limits.stream_window_bytes,
            limits.connection_window_bytes,
            settings.max_body_bytes + limits.connection_window_bytes,
        )
        limit_bytes = settings.write_buffer_bytes
        self._gate = Gate(
            self.output, self._windows, self._streams, limit_bytes, self._application_takes
        )
        self._going = False
        self._goaway_stream = f.LARGEST_STREAM
        self._resets = Budget(limits.resets_burst, limits.resets_per_s, self._clock)
        self._quiet_since_ns = self._clock.monotonic_ns()
        self._patience = Patience(settings, self._windows)
        self._control = control = ControlFrames(self.output, self._streams, limits, self._clock)
        self._data = data = DataFrames(self, self._streams, self._windows, control, self._clock)
        self._reader = FrameReader(self._frame, self._run)
        self._large = LargeReads(self, owner.memory.read_memory) if limits.large_reads else None
        self._handlers = {
            f.DATA: data.on_data,
            f.HEADERS: self._on_headers,
            f.PRIORITY: control.on_priority,
            f.RST_STREAM: self._on_rst_stream,
            f.SETTINGS: control.on_settings,
            f.PUSH_PROMISE: control.on_push_promise,
            f.PING: control.on_ping,
            f.GOAWAY: control.on_goaway,
            f.WINDOW_UPDATE: control.on_window_update,
            f.CONTINUATION: self._on_continuation,
        }

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send our settings, which is what a server begins with (3.4)."""
        self._transport = self.output.transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(self._http.write_buffer_bytes)
        limits = self._limits
        self.output.put(
            f.settings_frame(
                {
                    f.MAX_CONCURRENT_STREAMS: limits.max_streams,
                    f.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                    f.MAX_HEADER_LIST_SIZE: self._http.max_header_bytes,
                }
            )
        )
        self._windows.open()
        if not self._owner.opened(self):
            self._fail(f.ENHANCE_YOUR_CALM, "too many connections are open")
        elif self._owner.draining:
            self.begin_drain()

    def data_received(self, data: bytes) -> None:
        """Take new bytes."""
        if self._reader.stopped:
            return
        try:
            self._reader.feed(data)
            # Once for all frames that came: windows may have opened.
            if self.output.waiting or self._windows.is_shut:
                self._gate.go_on()
        except f.ConnectionFault as fault:
            self._fail(fault.code, fault.cause)
        if self._data.has_large and self._large is not None:
            self._read_into(self._large)

    @property
    def rest(self) -> bytes:
        """See ``large.Owner``."""
        return self._reader.rest

    def large_received(self, view: memoryview) -> None:
        """See ``large.Owner``."""
        if self._reader.stopped:
            return
        try:
            self._reader.feed_large(view)
            if self.output.waiting or self._windows.is_shut:
                self._gate.go_on()
        except f.ConnectionFault as fault:
            self._fail(fault.code, fault.cause)
        if not self._data.has_large:
            self._read_into(self)

    def _read_into(self, protocol: asyncio.BaseProtocol) -> None:
        """Let a protocol have what comes from now on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.set_protocol(protocol)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever answers that nobody waits."""
        del exc
        self._owner.closed(self)
        self._transport = self.output.transport = None
        for stream in list(self._streams.values()):
            self._drop(stream)

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read."""
        self.output.paused = self._reader.paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.output.paused = self._reader.paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self._gate.go_on()
        if self._reader.rest and not self._reader.paused:
            # Frames that came before the client was behind.
            try:
                self.data_received(b"")
            except Exception:
                # As where bytes come from the socket; what was handled must not come again.
                self.abort()
                raise

    # frames

    def _run(self, view: memoryview, position: int) -> int:
        """Take large bodies ahead of other frames; see ``DataFrames.take_run``."""
        return position if self._block.stream else self._data.take_run(view, position)

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        self._block.check(kind, number)
        if not self._control.settled and kind != f.SETTINGS:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "the first frame is not SETTINGS (3.4)")
        handler = self._handlers.get(kind)
        if handler is None:
            # Unknown frames are ignored (4.1), but not without end.
            self._control.count()
            return
        try:
            handler(flags, number, payload)
        except f.StreamFault as fault:
            # A client whose faults make us answer without end pays as for its own resets.
            spend(self._resets)
            self.reset(fault.stream, fault.code)

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number % 2:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "a client's streams are odd (5.1.1)")
        known = number in self._streams or number in self._reset
        block = self._block.begin(flags, number, payload)
        if number <= self._control.last_stream and not known:
            raise f.ConnectionFault(f.STREAM_CLOSED, "HEADERS on a stream that is closed (5.1)")
        if block is None:
            self._block_since_ns = self._clock.monotonic_ns()
        else:
            self._block_complete(number, flags, block)

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        block = self._block.go_on(flags, payload)
        for _ in range(self._block.steps()):
            spend(self._resets)
        if block is not None:
            self._block_complete(number, self._block.flags, block)

    def _block_complete(self, number: int, flags: int, block: bytes | Skimmer) -> None:
        # Every block is decoded, since each may change the table (4.3).
        stream = self._streams.get(number)
        ends = bool(flags & f.END_STREAM)
        if stream is None and number > self._control.last_stream:
            self._control.last_stream = number
            self._new_request(number, block, ends=ends)
            return
        if stream is None:
            # What was on its way when we reset the stream is dropped, but not without end.
            self._control.count_update()
        try:
            pairs = self._decoder.decode(block)
        except ListTooLong as error:
            raise f.StreamFault(number, f.ENHANCE_YOUR_CALM, str(error)) from error
        if stream is None:
            return
        if not stream.remote_open:
            raise f.StreamFault(number, f.STREAM_CLOSED, "HEADERS after the end (5.1)")
        if not ends:
            raise malformed(number, "trailers that do not end the request (8.1)")
        check_trailers(number, pairs)
        if stream.answered:
            self._windows.finished(stream)
            return
        if stream.announced_bytes not in (None, stream.received_bytes):
            raise malformed(number, "the body is shorter than content-length says (8.1.1)")
        self.end_request(stream)

    def _new_request(self, number: int, block: bytes | Skimmer, *, ends: bool) -> None:
        is_long = False
        try:
            fields = self._decoder.request(number, block)
        except ListTooLong as error:
            spend(self._resets)
            fields, is_long = request_fields(number, error.pairs), True
        # What comes while only the socket is full waits, as what is behind it on the wire.
        held = self.is_behind() and self.output.held_bytes > self._http.write_buffer_bytes
        if self._going or held or len(self._streams) >= self._limits.max_streams:
            raise f.StreamFault(number, f.REFUSED_STREAM, "no more streams now (5.1.2)")
        announced = announced_bytes(number, fields.get(b"content-length"))
        if ends and announced:
            raise malformed(number, "content-length without a body (8.1.1)")
        body = Body(announced, self.allocate)
        stream = Stream(number, fields, body, self._http.max_body_bytes, self._clock.monotonic_ns())
        stream.send_window = self.output.initial_window
        stream.receive_window = self._limits.stream_window_bytes
        stream.announced_bytes = announced
        self._streams[number] = stream
        if is_long:
            self._refuse_headers(stream, ends=ends)
            return
        if announced is not None and announced > self._http.max_body_bytes:
            self.refuse(stream, too_large(self._http.max_body_bytes))
            return
        if fields.get(b"expect") == b"100-continue" and not ends:
            self.output.put(self.output.head(number, status(100), ends=False))
        if ends:
            self._windows.finished(stream)
        self._application.begin(self, stream)
        if ends:
            self.end_request(stream)

    def _refuse_headers(self, stream: Stream, *, ends: bool) -> None:
        """Refuse a request whose fields are too many, which leaves the others alone (10.5.1)."""
        if ends:
            self._windows.finished(stream)
        limit_bytes = self._http.max_header_bytes
        self.refuse(stream, HeadersTooLarge(f"the header list is over {limit_bytes} bytes"))

    def end_request(self, stream: Stream) -> None:
        """See ``Host``."""
        if not (self.is_behind() and self._gate.keeps(stream)):
            self._application_takes(stream)

    def is_behind(self) -> bool:
        """Tell whether the client must read before more is begun; sinks are told when it has."""
        output = self.output
        unsent_bytes = output.held_bytes + output.queued_bytes
        return unsent_bytes > self._http.write_buffer_bytes and self._gate.is_behind()

    def _application_takes(self, stream: Stream) -> None:
        self._windows.finished(stream)
        if stream.id not in self._streams or stream.answered:
            return
        if stream.sink is not None:
            stream.sink.end()
        else:
            self._application.complete(self, stream)

    def let_in(self, stream: Stream) -> None:
        """See ``Host``."""
        self._owner.identify(stream.fields, self.peer)
        self._owner.memory.let_in(stream.received_bytes)

    def was_reset(self, number: int) -> bool:
        """See ``Host``."""
        return number in self._reset

    def more(self, stream: Stream) -> None:
        """See ``Host``."""
        self._application.data(self, stream)

    def _on_rst_stream(self, flags: int, number: int, payload: bytes) -> None:
        del flags
        if len(payload) != 4:  # noqa: PLR2004 - a 32-bit number
            raise f.ConnectionFault(f.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes (6.4)")
        if not number or number > self._control.last_stream or not number % 2:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "RST_STREAM on an idle stream (6.4)")
        stream = self._streams.get(number)
        if stream is not None and self._clock.monotonic_ns() - stream.begun_ns < _HASTY_NS:
            # A client that opens and resets streams without end makes work for nothing.
            spend(self._resets)
        else:
            # It crossed our answer, or held its place for so long that few can be given up.
            self._control.count_update()
        if stream is not None:
            self._drop(stream)

    # answers

    def answer(
        self, stream: Stream, block: bytes, body: Sequence[Buffer], trailers: bytes | None = None
    ) -> None:
        """Send a whole answer, unless the client has given up."""
        if stream.id in self._streams:
            stream.on_gone, stream.answered = None, True
            stream.progress_ns = self._clock.monotonic_ns()
            self.output.answer(stream, block, body, trailers)

    def send(self, stream: Stream, parts: Sequence[Buffer], block: bytes | None = None) -> None:
        """Send a part of an answer, behind its head if that is given; more may follow."""
        if stream.id in self._streams and not stream.answered:
            if not stream.outgoing:
                stream.progress_ns = self._clock.monotonic_ns()
            if block is not None:
                self.output.begin(stream, block)
            self.output.data(stream, parts)

    def end(self, stream: Stream, trailers: bytes) -> None:
        """End an answer whose head was sent."""
        if stream.id in self._streams and not stream.answered:
            stream.on_gone, stream.answered = None, True
            self.output.data(stream, (), trailers, ends=True)

    def consumed(self, stream: Stream, taken_bytes: int, finished_bytes: int) -> None:
        """Let the client send what a sink has taken again; messages that are whole are finished."""
        self._windows.let_go(stream, finished_bytes)
        if stream.remote_open and taken_bytes:
            self._windows.give_stream_back(stream, taken_bytes)

    def reset(self, number: int, code: int) -> None:
        """End a stream from our side (5.4.2)."""
        stream = self._streams.get(number)
        self._remember_reset(number)
        self.output.put(f.rst_stream(number, code))
        if stream is not None:
            self._drop(stream)

    def _remember_reset(self, number: int) -> None:
        self._reset[number] = None
        if len(self._reset) > _MAX_REMEMBERED_RESETS:
            del self._reset[next(iter(self._reset))]

    def _sent(self, stream: Stream) -> None:
        """Close a stream whose answer is complete."""
        if self._streams.pop(stream.id, None) is None:
            return
        if stream.remote_open:
            # The rest of the request is not needed (8.1).
            self._windows.finished(stream)
            self._remember_reset(stream.id)
            self.output.put(f.rst_stream(stream.id, f.NO_ERROR))
            if not self._resets.spend():
                self._fail(f.ENHANCE_YOUR_CALM, "too many requests that were refused unread")
        if not self._streams:
            self._quiet_since_ns = self._clock.monotonic_ns()
            if self._going:
                self.close()

    def _drop(self, stream: Stream) -> None:
        """Forget a stream that ended before its answer did."""
        self._streams.pop(stream.id, None)
        self._gate.forget(stream)
        self._windows.finished(stream)
        self.output.forget(stream)
        gone, stream.on_gone = stream.on_gone, None
        if gone is not None:
            gone()
        if not self._streams:
            self._quiet_since_ns = self._clock.monotonic_ns()
            if self._going:
                self.close()

    def refuse(self, stream: Stream, error: SalverError) -> None:
        """See ``Host``."""
        if stream.sink is not None:
            stream.sink.fail(error)
            return
        self._application.refuse(self, stream, error)

    def _fail(self, code: int, cause: str) -> None:
        """Say why, and close (5.4.1)."""
        self._reader.stopped = True
        self._say_goaway(code, cause)
        self.close()

    def _say_goaway(self, code: int, cause: str = "") -> None:
        """Announce the end; what was announced before may only shrink (6.8)."""
        self._goaway_stream = min(self._goaway_stream, self._control.last_stream)
        self.output.put(f.goaway(self._goaway_stream, code, cause))

    # the server's sweep

    def begin_drain(self) -> None:
        """Take no new streams; those that are open are answered (6.8)."""
        if not self._going:
            self._going = True
            self._say_goaway(f.NO_ERROR)
            for stream in list(self._streams.values()):
                if stream.sink is not None:
                    stream.sink.drain()

    def close_idle(self, now_ns: int, grace_s: float = 0.0) -> None:
        """Close if no stream is open, and none was for ``grace_s``."""
        if not self._streams and now_ns - self._quiet_since_ns >= grace_s * 1e9:
            self.begin_drain()
            self.close()

    def close(self) -> None:
        """Send what is queued and close."""
        self.output.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self, now_ns: int) -> None:
        """Close or refuse when the client has kept us waiting for too long."""
        http = self._http
        if self._transport is not None and self._patience.is_stalled(self._transport, now_ns):
            self.abort()
            return
        quiet_s = (now_ns - self._quiet_since_ns) / 1e9
        if not self._control.settled or self._block.stream:
            began_ns = self._block_since_ns if self._block.stream else self._quiet_since_ns
            if (now_ns - began_ns) / 1e9 > http.header_timeout_s:
                self._fail(f.SETTINGS_TIMEOUT, "the headers did not arrive in time")
            return
        if not self._streams and quiet_s > http.idle_timeout_s:
            self.close_idle(now_ns)
        for stream in list(self._streams.values()):
            self._expire_stream(stream, now_ns)
        self._gate.go_on()

    def unread(self, now_ns: int) -> Unread:
        """See ``Debtor``."""
        return self._patience.unread(self._transport, self.output, self._gate.kept_bytes, now_ns)

    def _expire_stream(self, stream: Stream, now_ns: int) -> None:
        if self._patience.is_unread(stream, now_ns):
            self.reset(stream.id, f.CANCEL)
        elif stream.sink is not None and not stream.answered:
            error = stream.sink.overdue(now_ns)
            if error is not None:
                stream.sink.fail(error)
        elif self._patience.is_late(stream, now_ns):
            self.refuse(stream, ReadTimeout("the body did not arrive in time, or too slowly"))
