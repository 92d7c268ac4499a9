"""Holds the requests of a connection back while its client does not read its answers."""

from collections.abc import Callable

from salver.gateway.h2.output import Output
from salver.gateway.h2.stream import Stream
from salver.gateway.h2.windows import ReceiveWindows


class Gate:
    """Shut from the first request that came while too much was unread, until enough is read.

    What waits goes on in its order, through ``go``. Only requests wait: frames that open windows,
    or give a stream up, are what ends the waiting. While it is shut the client gets no window back,
    so that what waits is no more than it might have sent ahead.
    """

    def __init__(
        self,
        output: Output,
        windows: ReceiveWindows,
        streams: dict[int, Stream],
        limit_bytes: int,
        go: Callable[[Stream], None],
    ) -> None:
        self._output = output
        self._windows = windows
        self._streams = streams
        self._limit_bytes = limit_bytes
        self._go = go
        self._waiting: dict[int, Stream] = {}

    def is_behind(self) -> bool:
        """Tell whether the client has to read first; then sinks are told when it has."""
        output = self._output
        if output.queued_bytes > self._limit_bytes:
            # So that the client's pace is known before more is asked in the same turn.
            output.flush()
        if output.held_bytes <= self._limit_bytes and not output.paused:
            return False
        self._windows.is_shut = True
        return True

    def keeps(self, stream: Stream) -> bool:
        """Take a request that is complete, unless nobody has to wait for its end."""
        if stream.sink is not None or stream.id not in self._streams or stream.answered:
            return False
        # Its bytes still count among those that are not finished.
        stream.remote_open = False
        self._waiting[stream.id] = stream
        return True

    def forget(self, stream: Stream) -> None:
        """Drop a request whose client has given up."""
        self._waiting.pop(stream.id, None)

    def go_on(self) -> None:
        """Send what may leave by now, and let requests in that waited for it."""
        if self._output.waiting:
            self._output.pump()
        if self._windows.is_shut:
            self._open()

    def _open(self) -> None:
        while not self.is_behind():
            if not self._waiting:
                self._windows.reopen()
                self._wake()
                return
            self._go(self._waiting.pop(next(iter(self._waiting))))

    def _wake(self) -> None:
        for stream in list(self._streams.values()):
            if stream.sink is not None:
                stream.sink.resume()

    @property
    def kept_bytes(self) -> int:
        """What the requests that wait for a client to read have in memory."""
        return sum([stream.kept_bytes for stream in self._waiting.values()])
