"""The frames that carry no request: settings, pings, windows, and what is ignored."""

from salver.core.clock import Clock
from salver.core.settings import Http2Settings
from salver.gateway.h2 import frames as f
from salver.gateway.h2.budget import Budget
from salver.gateway.h2.output import Output
from salver.gateway.h2.stream import Stream


def spend(budget: Budget) -> None:
    """Count a frame; raises ``ConnectionFault`` when there were too many."""
    if not budget.spend():
        raise f.ConnectionFault(f.ENHANCE_YOUR_CALM, "too many frames that carry nothing")


class ControlFrames:
    """Handles control frames of one connection and counts what they cost.

    ``settled`` tells that the client's first SETTINGS has come, ``last_stream`` is the highest that
    it has used. All handlers raise ``ConnectionFault`` or ``StreamFault``.
    """

    def __init__(
        self, output: Output, streams: dict[int, Stream], limits: Http2Settings, clock: Clock
    ) -> None:
        self._output = output
        self._streams = streams
        self._frames = Budget(limits.control_frames_burst, limits.control_frames_per_s, clock)
        self._updates = Budget(limits.window_updates_burst, limits.window_updates_per_s, clock)
        self.settled = self._acknowledged = False
        self.last_stream = 0

    def count(self) -> None:
        """Count a frame that makes work and carries nothing."""
        spend(self._frames)

    def count_update(self) -> None:
        """Count a frame that is cheap and may be frequent."""
        spend(self._updates)

    def on_priority(self, flags: int, number: int, payload: bytes) -> None:
        """Take PRIORITY; see the class."""
        del flags
        if not number:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "PRIORITY without a stream (6.3)")
        self.count()
        if len(payload) != 5:  # noqa: PLR2004 - a dependency and a weight
            if number > self.last_stream or not number % 2:
                # An idle stream may not be reset (6.4), so the connection ends (5.4.1).
                raise f.ConnectionFault(f.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes (6.3)")
            raise f.StreamFault(number, f.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes (6.3)")

    def on_settings(self, flags: int, number: int, payload: bytes) -> None:
        """Take SETTINGS; see the class."""
        if number:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "SETTINGS on a stream (6.5)")
        if flags & f.ACK:
            if payload:
                raise f.ConnectionFault(f.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload (6.5)")
            if self._acknowledged:
                self.count()
            self._acknowledged = True
            return
        if self.settled:
            self.count()
        self.settled = True
        window = self._output.initial_window
        for name, value in f.parse_settings(payload):
            self._setting(name, value)
            if name == f.INITIAL_WINDOW_SIZE:
                window = value
        # Once for the whole frame: each change is work for every open stream.
        self._change_windows(window)
        self._output.put(f.frame(f.SETTINGS, f.ACK, 0))

    def _change_windows(self, initial: int) -> None:
        change, self._output.initial_window = initial - self._output.initial_window, initial
        if not change:
            return
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > f.LARGEST_WINDOW:
                raise f.ConnectionFault(f.FLOW_CONTROL_ERROR, "a window over 2^31-1 (6.9.2)")

    def _setting(self, name: int, value: int) -> None:
        if name == f.INITIAL_WINDOW_SIZE:
            if value > f.LARGEST_WINDOW:
                raise f.ConnectionFault(f.FLOW_CONTROL_ERROR, "a window over 2^31-1 (6.5.2)")
        elif name == f.MAX_FRAME_SIZE:
            if not f.DEFAULT_FRAME_BYTES <= value <= f.LARGEST_FRAME_BYTES:
                raise f.ConnectionFault(f.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range (6.5.2)")
            self._output.max_frame_bytes = value
        elif name == f.HEADER_TABLE_SIZE and value < f.DEFAULT_TABLE_BYTES:
            self._output.resizes = True
        elif name == f.ENABLE_PUSH and value > 1:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1 (6.5.2)")

    def on_push_promise(self, flags: int, number: int, payload: bytes) -> None:
        """Take PUSH_PROMISE; see the class."""
        del flags, number, payload
        raise f.ConnectionFault(f.PROTOCOL_ERROR, "a client cannot push (8.4)")

    def on_ping(self, flags: int, number: int, payload: bytes) -> None:
        """Take PING; see the class."""
        if number:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "PING on a stream (6.7)")
        if len(payload) != 8:  # noqa: PLR2004 - as the section says
            raise f.ConnectionFault(f.FRAME_SIZE_ERROR, "PING is not 8 bytes (6.7)")
        self.count()
        if not flags & f.ACK:
            self._output.put(f.frame(f.PING, f.ACK, 0, payload))

    def on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        """Take GOAWAY; see the class."""
        del flags
        if number:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "GOAWAY on a stream (6.8)")
        if len(payload) < 8:  # noqa: PLR2004 - a stream and a code
            raise f.ConnectionFault(f.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes (6.8)")
        self.count()

    def on_window_update(self, flags: int, number: int, payload: bytes) -> None:
        """Take WINDOW_UPDATE; see the class."""
        del flags
        if len(payload) != 4:  # noqa: PLR2004 - a 32-bit number
            raise f.ConnectionFault(f.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes (6.9)")
        self.count_update()
        increment = f.word(payload) & f.LARGEST_WINDOW
        if not number:
            if not increment:
                raise f.ConnectionFault(f.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing (6.9)")
            self._output.window += increment
            if self._output.window > f.LARGEST_WINDOW:
                raise f.ConnectionFault(f.FLOW_CONTROL_ERROR, "a window over 2^31-1 (6.9.1)")
        else:
            self._stream_window(number, increment)

    def _stream_window(self, number: int, increment: int) -> None:
        if number > self.last_stream or not number % 2:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream (5.1)")
        if not increment:
            raise f.StreamFault(number, f.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing (6.9)")
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.send_window += increment
        if stream.send_window > f.LARGEST_WINDOW:
            raise f.StreamFault(number, f.FLOW_CONTROL_ERROR, "a window over 2^31-1 (6.9.1)")
