"""Frames of DATA: to whom they belong, what they count, and where their bytes go."""

from typing import Protocol

from salver.core.clock import Clock
from salver.core.errors import BodyTooLarge, SalverError
from salver.gateway.h2 import frames as f
from salver.gateway.h2.control import ControlFrames
from salver.gateway.h2.headers import malformed
from salver.gateway.h2.stream import Stream
from salver.gateway.h2.windows import ReceiveWindows


class Host(Protocol):
    """The connection that the frames came on."""

    def was_reset(self, number: int) -> bool:
        """Tell whether we have reset a stream of which something may be on its way."""
        ...

    def more(self, stream: Stream) -> None:
        """Take note that more of a body is there."""
        ...

    def end_request(self, stream: Stream) -> None:
        """Take note that a request has ended."""
        ...

    def let_in(self, stream: Stream) -> None:
        """Raise a ``SalverError`` when a body may not become large, or larger."""
        ...

    def refuse(self, stream: Stream, error: SalverError) -> None:
        """Answer a request that is not read to its end."""
        ...


class DataFrames:
    """Handles the DATA of one connection. Raises ``ConnectionFault`` or ``StreamFault``.

    While ``has_large`` there is a body with memory of its own whose rest is on its way: what comes
    is best offered to ``take_run``.
    """

    def __init__(
        self,
        host: Host,
        streams: dict[int, Stream],
        windows: ReceiveWindows,
        control: ControlFrames,
        clock: Clock,
    ) -> None:
        self._host = host
        self._streams = streams
        self._windows = windows
        self._control = control
        self._clock = clock
        self._large = 0

    @property
    def has_large(self) -> bool:
        """See the class."""
        stream = self._streams.get(self._large)
        return stream is not None and stream.remote_open and not stream.answered

    def take_run(self, view: memoryview, position: int) -> int:
        """Take the frames that only bring more of one large body; returns where others begin.

        Whatever a frame could do besides (end the stream, be padded or empty, go over a window, a
        limit or the announced length) is left to ``on_data``, so that it means the same there.
        """
        unpack, head_bytes, last = f.HEAD.unpack_from, f.HEAD_BYTES, view.nbytes - f.HEAD_BYTES
        if position > last:
            return position
        stream = self._streams.get(unpack(view, position)[4])
        room = None if stream is None else self._room(stream)
        if stream is None or room is None:
            return position
        wanted, limit, total = stream.id, self._allowed(stream, room), 0
        while position <= last:
            high, low, kind, flags, number = unpack(view, position)
            start = position + head_bytes
            stop, filled = start + low, total + low
            if kind or flags or high or number != wanted or not low:
                break
            if low > f.DEFAULT_FRAME_BYTES or filled > limit or stop > view.nbytes:
                break
            room[total:filled] = view[start:stop]
            position, total = stop, filled
        if total:
            self._took(stream, total)
        return position

    @staticmethod
    def _room(stream: Stream) -> memoryview | None:
        """Return where the rest of a body goes if it has memory of its own, and is wanted."""
        if stream.sink is not None or stream.answered or not stream.remote_open:
            return None
        return stream.body.room()

    def _allowed(self, stream: Stream, room: memoryview) -> int:
        """Return how many bytes more of a body break no rule."""
        left = stream.limit_bytes - stream.received_bytes
        return min(room.nbytes, left, stream.receive_window, self._windows.window)

    def _took(self, stream: Stream, size: int) -> None:
        """Count what came of a body."""
        self._large = stream.id
        self._windows.take(size)
        stream.receive_window -= size
        stream.received_bytes += size
        if not stream.outgoing:
            stream.progress_ns = self._clock.monotonic_ns()
        stream.body.filled(size)
        self._windows.keep(stream, size)
        self._windows.give_back(size, stream)

    def on_data(self, flags: int, number: int, payload: bytes) -> None:
        """Take DATA; see the class."""
        size = len(payload)
        self._windows.take(size)
        stream = self._streams.get(number)
        if stream is None or not stream.remote_open:
            self._data_for_nobody(number, size, is_known=stream is not None)
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            self._windows.give_back(size)
            raise f.StreamFault(number, f.FLOW_CONTROL_ERROR, "more DATA than the window (6.9.1)")
        data = f.unpadded(payload, flags) if flags & f.PADDED else payload
        ends = bool(flags & f.END_STREAM)
        if not data and not ends:
            self._control.count()
        if stream.answered:
            # The answer did not wait for the rest of the request.
            self._windows.give_back(size)
            if ends:
                self._windows.finished(stream)
            return
        stream.received_bytes = total = stream.received_bytes + len(data)
        announced = stream.announced_bytes
        if announced is not None and (total > announced or (ends and total != announced)):
            self._windows.give_back(size)
            raise malformed(number, "the body is not as long as content-length says (8.1.1)")
        if not stream.outgoing:
            # Who sends but does not read makes no progress.
            stream.progress_ns = self._clock.monotonic_ns()
        if stream.sink is None:
            self._to_body(stream, data, size, ends=ends)
            return
        # The padding of the frame is done with; the rest is when the sink says so.
        self._windows.keep(stream, len(data))
        self._windows.give_back(size)
        self._windows.give_stream_back(stream, size - len(data))
        stream.sink.feed(data)
        if ends:
            self._host.end_request(stream)

    def _to_body(self, stream: Stream, data: bytes, size: int, *, ends: bool) -> None:
        received_bytes = stream.received_bytes
        try:
            if received_bytes > stream.limit_bytes:
                raise too_large(stream.limit_bytes)
            if received_bytes >= stream.ask_bytes and self._room(stream) is None:
                self._host.let_in(stream)
                stream.ask_bytes = 2 * received_bytes
            stream.body.add(data)
        except SalverError as error:
            self._windows.give_back(size)
            self._host.refuse(stream, error)
            return
        self._windows.keep(stream, len(data))
        if not ends:
            self._host.more(stream)
            self._windows.give_back(size, None if stream.answered else stream)
            self._note_large(stream)
            return
        self._host.end_request(stream)
        self._windows.give_back(size)

    def _note_large(self, stream: Stream) -> None:
        room = self._room(stream)
        if room is not None:
            self._large = stream.id
            if stream.wide_bytes is None:
                self._windows.widen(stream, room.nbytes)

    def _data_for_nobody(self, number: int, size: int, *, is_known: bool) -> None:
        if number == 0 or number > self._control.last_stream or not number % 2:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "DATA on a stream that is idle (5.1)")
        self._windows.give_back(size)
        if is_known or not self._host.was_reset(number):
            raise f.StreamFault(number, f.STREAM_CLOSED, "DATA after the end of the request (5.1)")
        # What was on its way when we reset the stream is dropped (5.4.2).
        self._control.count_update()


def too_large(limit_bytes: int) -> BodyTooLarge:
    """Return the refusal of a body over the limit."""
    return BodyTooLarge(f"the body is over the limit of {limit_bytes} bytes")
