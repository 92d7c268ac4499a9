"""What a client may send, and when it may send more (RFC 9113, 6.9)."""

from collections.abc import Callable

from salver.gateway.h2 import frames as f
from salver.gateway.h2.stream import Stream


class ReceiveWindows:
    """The receiving side of flow control.

    Bodies are kept until they are complete, so a window opens again as soon as bytes have come; but
    the connection's stays shut while ``unfinished_bytes``, what incomplete bodies and messages hold
    together, are over ``max_unfinished_bytes``. The window of a stream of messages opens as they
    are taken.
    """

    def __init__(
        self,
        put: Callable[[bytes], None],
        stream_bytes: int,
        connection_bytes: int,
        max_unfinished_bytes: int,
    ) -> None:
        self._put = put
        self._stream_bytes = stream_bytes
        self._connection_bytes = max(connection_bytes, f.DEFAULT_WINDOW)
        self._max_unfinished = max_unfinished_bytes
        self._window = f.DEFAULT_WINDOW
        self._owed = 0
        self.unfinished_bytes = 0

    def open(self) -> None:
        """Give the client the window that the settings allow (6.9.2)."""
        more = self._connection_bytes - self._window
        if more > 0:
            self._window += more
            self._put(f.window_update(0, more))

    def take(self, size_bytes: int) -> None:
        """Count a frame of DATA; raises ``ConnectionFault`` when it is more than was allowed."""
        self._window -= size_bytes
        if self._window < 0:
            raise f.ConnectionFault(f.FLOW_CONTROL_ERROR, "more DATA than the window (6.9.1)")

    def give_back(self, size_bytes: int, stream: Stream | None = None) -> None:
        """Let the client send as much again, at once or when it is worth a frame."""
        self._owed += size_bytes
        worth_it = self._owed * 2 >= self._connection_bytes
        if worth_it and self.unfinished_bytes <= self._max_unfinished:
            self._window += self._owed
            self._put(f.window_update(0, self._owed))
            self._owed = 0
        if stream is not None:
            self.give_stream_back(stream, size_bytes)

    def give_stream_back(self, stream: Stream, size_bytes: int) -> None:
        """Let the client send as much again on a stream."""
        stream.owed_bytes += size_bytes
        if stream.owed_bytes * 2 >= self._stream_bytes:
            stream.receive_window += stream.owed_bytes
            self._put(f.window_update(stream.id, stream.owed_bytes))
            stream.owed_bytes = 0

    def keep(self, stream: Stream, size_bytes: int) -> None:
        """Count bytes that wait for the rest of a body or message."""
        stream.kept_bytes += size_bytes
        self.unfinished_bytes += size_bytes

    def let_go(self, stream: Stream, size_bytes: int) -> None:
        """Take note that so many of them do not wait any more."""
        size_bytes = min(size_bytes, stream.kept_bytes)
        stream.kept_bytes -= size_bytes
        self.unfinished_bytes -= size_bytes
        self.give_back(0)

    def finished(self, stream: Stream) -> None:
        """Take note that a body is complete, or not wanted any more."""
        if stream.remote_open:
            stream.remote_open = False
            self.let_go(stream, stream.kept_bytes)
