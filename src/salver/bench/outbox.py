"""What a server's flow control lets a client send of its messages (RFC 9113, 5.2)."""

from dataclasses import dataclass

from salver.bench.frames import (
    DATA,
    END_STREAM,
    FIRST_FRAME_BYTES,
    FIRST_WINDOW_BYTES,
    MAX_WINDOW_BYTES,
    MalformedAnswer,
    head,
)

Parts = list[bytes | memoryview]


@dataclass(slots=True)
class _Rest:
    """What of a message has not been sent, and what the stream's window still allows."""

    data: memoryview
    window_bytes: int


class Outbox:
    """Cuts messages into frames, and keeps the rest of those that the windows hold back."""

    def __init__(self) -> None:
        self.frame_bytes = FIRST_FRAME_BYTES
        self._window_bytes = FIRST_WINDOW_BYTES
        self._initial_bytes = FIRST_WINDOW_BYTES
        self._rests: dict[int, _Rest] = {}

    def put(self, stream: int, message: bytes) -> Parts:
        """Return as much of a new stream's message as may be sent now."""
        size = len(message)
        if (
            size <= self.frame_bytes
            and size <= self._window_bytes
            and size <= self._initial_bytes
            and not self._rests
        ):
            self._window_bytes -= size
            return [head(DATA, END_STREAM, stream, size), message]
        self._rests[stream] = _Rest(memoryview(message), self._initial_bytes)
        return self._allowed()

    def grant(self, stream: int, size_bytes: int) -> Parts:
        """Widen the window of a stream, or with 0 of the connection; return what that lets go."""
        if not stream:
            self._window_bytes += size_bytes
        elif stream in self._rests:
            self._rests[stream].window_bytes += size_bytes
        if self._window_bytes > MAX_WINDOW_BYTES:
            raise MalformedAnswer("a window is wider than it may be")
        return self._allowed() if self._rests else []

    def resize(self, initial_bytes: int) -> Parts:
        """Take over another initial window, which moves those of open streams as well."""
        for rest in self._rests.values():
            rest.window_bytes += initial_bytes - self._initial_bytes
        self._initial_bytes = initial_bytes
        return self._allowed()

    def forget(self, stream: int) -> None:
        """Send nothing more of a stream."""
        if self._rests:
            self._rests.pop(stream, None)

    def _allowed(self) -> Parts:
        parts: Parts = []
        for stream, rest in list(self._rests.items()):
            while rest.data:
                size = min(self.frame_bytes, self._window_bytes, rest.window_bytes, len(rest.data))
                if size <= 0:
                    break
                last = END_STREAM if size == len(rest.data) else 0
                parts += (head(DATA, last, stream, size), rest.data[:size])
                rest.data = rest.data[size:]
                rest.window_bytes -= size
                self._window_bytes -= size
            if not rest.data:
                del self._rests[stream]
            if self._window_bytes <= 0:
                break
        return parts
