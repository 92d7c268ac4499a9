"""What a client may send, and when it may send more (RFC 9113, 6.9)."""

from collections.abc import Callable

from salver.gateway.h2 import frames as f
from salver.gateway.h2.stream import Stream


class ReceiveWindows:
    """The receiving side of flow control.

    Bodies are kept until they are complete, so windows open again as soon as bytes have come. While
    ``unfinished_bytes``, what incomplete bodies and messages hold together, are over
    ``max_unfinished_bytes``, only the oldest body may go on: so one after the other comes to its
    end. The window of a stream of messages opens as they are taken. ``window`` is what the
    client may send on the connection. While ``is_shut`` it gets none of it back.
    """

    def __init__(
        self,
        put: Callable[[bytes], None],
        streams: dict[int, Stream],
        stream_bytes: int,
        connection_bytes: int,
        max_unfinished_bytes: int,
    ) -> None:
        self._put = put
        self._streams = streams
        self._stream_bytes = stream_bytes
        self._connection_bytes = max(connection_bytes, f.DEFAULT_WINDOW)
        self._max_unfinished = max_unfinished_bytes
        self.window = f.DEFAULT_WINDOW
        self._owed = 0
        self._wide = 0
        self.unfinished_bytes = 0
        self.is_shut = False

    def open(self) -> None:
        """Give the client the window that the settings allow (6.9.2)."""
        more = self._connection_bytes - self.window
        if more > 0:
            self.window += more
            self._put(f.window_update(0, more))

    def take(self, size_bytes: int) -> None:
        """Count a frame of DATA; raises ``ConnectionFault`` when it is more than was allowed."""
        self.window -= size_bytes
        if self.window < 0:
            raise f.ConnectionFault(f.FLOW_CONTROL_ERROR, "more DATA than the window (6.9.1)")

    def give_back(self, size_bytes: int, stream: Stream | None = None) -> None:
        """Let the client send as much again, at once or when it is worth a frame."""
        self._owed += size_bytes
        if self._owed * 2 >= self._connection_bytes and not self.is_shut:
            self.window += self._owed
            self._put(f.window_update(0, self._owed))
            self._owed = 0
        if stream is not None:
            self.give_stream_back(stream, size_bytes)

    def give_stream_back(self, stream: Stream, size_bytes: int) -> None:
        """Let the client send as much again on a stream, unless others come first."""
        stream.owed_bytes += size_bytes
        if not self.withholds(stream):
            self._give_back_to(stream)

    def widen(self, stream: Stream, rest_bytes: int) -> None:
        """Let the client send the rest of a body without waiting, if nothing speaks against it.

        One body of a connection at a time: what can be sent ahead of the others stays within the
        window of the connection, whatever becomes of the budget.
        """
        stream.wide_bytes = 0
        other = self._streams.get(self._wide)
        if (other is not None and other.remote_open) or self.withholds(stream):
            return
        window = min(rest_bytes, self._connection_bytes)
        if window > stream.receive_window + stream.owed_bytes:
            self._wide, stream.wide_bytes = stream.id, window
            self._put(f.window_update(stream.id, window - stream.receive_window))
            # What was owed is given back by the way.
            stream.receive_window, stream.owed_bytes = window, 0

    def withholds(self, stream: Stream) -> bool:
        """Tell whether a client may not send more of a body for now."""
        if self.is_shut:
            return True
        if self.unfinished_bytes <= self._max_unfinished or stream.sink is not None:
            return False
        # No generator: compiled, it would look at every stream before the first is known.
        for one in self._streams.values():
            if one.remote_open and one.sink is None:
                return one is not stream
        return True

    def keep(self, stream: Stream, size_bytes: int) -> None:
        """Count bytes that wait for the rest of a body or message."""
        stream.kept_bytes += size_bytes
        self.unfinished_bytes += size_bytes

    def let_go(self, stream: Stream, size_bytes: int) -> None:
        """Take note that so many of them do not wait any more."""
        size_bytes = min(size_bytes, stream.kept_bytes)
        held_back = self.unfinished_bytes > self._max_unfinished
        stream.kept_bytes -= size_bytes
        self.unfinished_bytes -= size_bytes
        if held_back:
            self._give_all_back()

    def reopen(self) -> None:
        """Let the client send again after windows were shut."""
        self.is_shut = False
        self.give_back(0)
        self._give_all_back()

    def _give_all_back(self) -> None:
        for stream in self._streams.values():
            if stream.remote_open and not self.withholds(stream):
                self._give_back_to(stream)

    def finished(self, stream: Stream) -> None:
        """Take note that a body is complete, or not wanted any more."""
        was_open, stream.remote_open = stream.remote_open, False
        if was_open or stream.kept_bytes:
            self.let_go(stream, stream.kept_bytes)

    def _give_back_to(self, stream: Stream) -> None:
        if stream.owed_bytes * 2 >= (stream.wide_bytes or self._stream_bytes):
            stream.receive_window += stream.owed_bytes
            self._put(f.window_update(stream.id, stream.owed_bytes))
            stream.owed_bytes = 0
