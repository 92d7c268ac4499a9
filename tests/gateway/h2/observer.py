"""Both sides of a conversation in memory, and what must add up in it whatever a client sends.

The observer counts windows and streams by what travels alone, so it does not share our mistakes.
"""

from collections import defaultdict

from salver.core.settings import Http2Settings
from salver.gateway.h2 import frames as f
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.headers import literal, status
from salver.gateway.h2.stream import Stream
from salver.gateway.http.prelude import PREFACE
from tests.gateway.h2.inmemory import (
    GREETING,
    Application,
    Frame,
    Ours,
    disagreement,
    frames_of,
)

_SMALL_WINDOW = f.INITIAL_WINDOW_SIZE.to_bytes(2) + bytes(2)
_LEAST_PIECE_BYTES, _MOST_PIECES = 7, 50

LARGE = bytes(70_000)
TRAILERS = literal(b"done", b"yes")
LIMITS = Http2Settings()


class Echo:
    """Sink that sends a request's bytes back as they come."""

    def __init__(self, connection: Http2Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self._head: bytes | None = status(200)

    def feed(self, data: bytes) -> None:
        """Send the bytes back, and let the client send as many again."""
        self._connection.send(self._stream, (data,), self._head)
        self._head = None
        self._connection.consumed(self._stream, len(data), len(data))

    def end(self) -> None:
        """End the answer."""
        self._connection.send(self._stream, (), self._head)
        self._connection.end(self._stream, TRAILERS)

    def fail(self, error: Exception) -> None:
        """End the answer."""
        self.end()

    def sent(self) -> None:
        """Nothing waits for it."""

    def resume(self) -> None:
        """Nothing waits for it."""

    def drain(self) -> None:
        """Go on."""

    def overdue(self, now_ns: int) -> None:
        """Wait for ever."""


class Varied(Application):
    """Answers by the number of the stream: shortly, at length, with a head alone, or piecewise."""

    def begin(self, connection: Http2Connection, stream: Stream) -> None:
        """Take a body as it comes, on some streams."""
        if stream.id % 8 == 7:
            stream.sink = Echo(connection, stream)

    def complete(self, connection: Http2Connection, stream: Stream) -> None:
        """Answer."""
        self.complete_streams.append(stream.id)
        body, trailers = {3: (LARGE, TRAILERS), 5: (b"", None)}.get(stream.id % 8, (b"abc", None))
        connection.answer(stream, status(200), (body,), trailers)


class Observer:
    """Knows from the frames of both sides what may be said; each rule names its section."""

    def __init__(self) -> None:
        self._highest = 0
        self._ended: set[int] = set()
        self._settings = 0
        self._initial = f.DEFAULT_WINDOW
        self._largest_frame = f.DEFAULT_FRAME_BYTES
        self._updates: defaultdict[int, int] = defaultdict(int)
        self._sent: defaultdict[int, int] = defaultdict(int)
        self._granted: defaultdict[int, int] = defaultdict(int)
        self._received: defaultdict[int, int] = defaultdict(int)

    def heard(self, frame: Frame) -> None:
        """Take a frame of the client, whether it is right or not."""
        stream = frame.stream & f.LARGEST_STREAM
        if frame.kind == f.HEADERS and stream % 2:
            self._highest = max(self._highest, stream)
        elif frame.kind == f.DATA:
            self._received[stream] += len(frame.payload)
            self._received[0] += len(frame.payload)
        elif frame.kind == f.WINDOW_UPDATE and len(frame.payload) == 4:
            self._updates[stream] += f.word(frame.payload) & f.LARGEST_WINDOW
        elif frame.kind == f.SETTINGS and not frame.flags & f.ACK and len(frame.payload) % 6 == 0:
            self._settings += 1
            for name, value in f.parse_settings(frame.payload):
                if name == f.INITIAL_WINDOW_SIZE:
                    self._initial = value
                elif name == f.MAX_FRAME_SIZE:
                    self._largest_frame = max(value, f.DEFAULT_FRAME_BYTES)

    def said(self, frame: Frame) -> None:
        """Check a frame of ours."""
        number, size = frame.stream, len(frame.payload)
        assert size <= self._largest_frame, "a frame is longer than the client allows (4.2)"
        if frame.kind in (f.HEADERS, f.DATA, f.RST_STREAM):
            assert number % 2, "a stream that no client opens (5.1.1)"
            assert number <= self._highest, "a stream that is idle (5.1, 6.4)"
        if frame.kind in (f.HEADERS, f.DATA):
            assert number not in self._ended, "a stream that we had ended (5.1)"
            if frame.flags & f.END_STREAM:
                self._ended.add(number)
        if frame.kind == f.RST_STREAM:
            self._ended.add(number)
        elif frame.kind == f.DATA and size:
            self._sent[number] += size
            self._sent[0] += size
            room = f.DEFAULT_WINDOW + self._updates[0] - self._sent[0]
            assert room >= 0, "more DATA than the connection's window (6.9.1)"
            room = self._initial + self._updates[number] - self._sent[number]
            assert room >= 0, "more DATA than the stream's window (6.9.1)"
        elif frame.kind == f.WINDOW_UPDATE:
            self._grants(number, f.word(frame.payload))
        elif frame.kind == f.SETTINGS and frame.flags & f.ACK:
            self._settings -= 1
            assert self._settings >= 0, "SETTINGS were acknowledged twice (6.5.3)"

    def _grants(self, number: int, increment: int) -> None:
        assert increment, "WINDOW_UPDATE of nothing (6.9)"
        self._granted[number] += increment
        first = LIMITS.stream_window_bytes if number else f.DEFAULT_WINDOW
        limit = LIMITS.stream_window_bytes if number else LIMITS.connection_window_bytes
        room = first + self._granted[number] - self._received[number]
        assert room <= limit, "the client may send more than our limits say (6.9)"


def check_books(ours: Ours) -> None:
    """What the connection counts for all streams must be what they hold."""
    connection = ours.connection
    streams, output, windows = connection._streams, connection.output, connection._windows
    held = {
        number: sum(len(bytes(part)) for part in stream.outgoing or ())
        for number, stream in streams.items()
    }
    assert held == {number: stream.held_bytes for number, stream in streams.items()}
    assert output.held_bytes == sum(held.values())
    assert windows.unfinished_bytes == sum(stream.kept_bytes for stream in streams.values())
    assert all(stream.kept_bytes >= 0 for stream in streams.values())
    assert set(output.waiting) <= set(streams)
    assert set(connection._gate._waiting) <= set(streams)
    assert len(streams) <= LIMITS.max_streams
    assert len(connection._reader.rest) < f.HEAD_BYTES + f.DEFAULT_FRAME_BYTES


def observe(script: bytes) -> None:
    """Let a client say a script frame by frame, leave, and check all that must hold."""
    application = Varied()
    ours, observer = Ours(application), Observer()
    for frame in frames_of(GREETING[len(PREFACE) :] + script):
        observer.heard(frame)
        ours.feed(frame.bytes() if ours.connection._control.settled else GREETING)
        for answer in ours.said():
            observer.said(answer)
        if not ours.transport.closed:
            check_books(ours)
    complete = application.complete_streams
    assert len(complete) == len(set(complete)), "a request was complete twice"
    ours.connection.connection_lost(None)
    assert not ours.connection._streams
    check_books(ours)


def check_pieces(script: bytes) -> None:
    """Frames mean the same however they are cut.

    But for answers that wait for a window: whether they have left when the next frame comes hangs
    on what comes together, and frames for a stream that has ended mean something else.
    """
    settings = [frame.payload for frame in frames_of(script) if frame.kind == f.SETTINGS]
    if any(_SMALL_WINDOW in payload for payload in settings):
        return
    whole, pieces = Ours(), Ours()
    whole.feed(GREETING + script)
    piece_bytes = max(_LEAST_PIECE_BYTES, len(script) // _MOST_PIECES)
    for start in range(0, len(GREETING + script), piece_bytes):
        pieces.feed((GREETING + script)[start : start + piece_bytes])
    assert whole.fault() == pieces.fault(), "the size of the pieces makes a difference"
    assert whole.application.complete_streams == pieces.application.complete_streams


def examine(data: bytes) -> None:
    """Say all that is tried with one input: raw bytes, or the frames after a preface."""
    raw = Ours()
    raw.feed(data)
    raw.fault()
    script = data.removeprefix(PREFACE)
    check_pieces(script)
    observe(script)
    different = disagreement(script)
    assert different is None, different
