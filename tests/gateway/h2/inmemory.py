"""Our HTTP/2 connection in memory, fed with bytes, and the verdicts of `h2` on the same bytes.

`h2` is another implementation of the same rules. What it calls a violation that ends the
connection, we end too, and what it accepts we accept, but for the differences named here.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import h2.config
import h2.connection
import h2.exceptions
import h2.settings

from salver.core.clock import Clock, ManualClock
from salver.core.errors import SalverError
from salver.core.settings import Http2Settings, HttpSettings
from salver.gateway.h2 import frames as f
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.headers import literal, status
from salver.gateway.h2.stream import Stream
from salver.gateway.http.arrears import Arrears
from salver.gateway.http.memory import PayloadMemory
from salver.gateway.http.ports import Identify
from salver.gateway.http.prelude import PREFACE

_NO_VERDICT = -1
_BLOCKS = (f.HEADERS, f.CONTINUATION)
_EXTENSION = b"\x00\x08"
_RESERVED_BIT = b"\x80"
GREETING = PREFACE + f.settings_frame({})
BLOCK = b"".join(
    literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/v2/models/m/infer"),
        (b":authority", b"test"),
    )
)


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    def bytes(self) -> bytes:
        """Return the frame as it travels."""
        return f.frame(*self)


def frames_of(data: bytes) -> Iterator[Frame]:
    """Yield the frames that are whole."""
    position = 0
    while position + f.HEAD_BYTES <= len(data):
        high, low, kind, flags, stream = f.HEAD.unpack_from(data, position)
        start = position + f.HEAD_BYTES
        position = start + (high << 16 | low)
        if position <= len(data):
            yield Frame(kind, flags, stream, data[start:position])


class Transport:
    """Transport in memory."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        """Keep what is written."""
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        """Keep what is written."""
        self.written += b"".join(parts)

    def close(self) -> None:
        """Take note."""
        self.closed = True

    def is_closing(self) -> bool:
        """Tell."""
        return self.closed

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing waits."""

    def pause_reading(self) -> None:
        """Reading goes on."""

    def resume_reading(self) -> None:
        """Reading goes on."""


class Application:
    """Answers every complete request with a few bytes."""

    def __init__(self) -> None:
        self.complete_streams: list[int] = []

    def begin(self, connection: Http2Connection, stream: Stream) -> None:
        """Wait."""

    def data(self, connection: Http2Connection, stream: Stream) -> None:
        """Wait."""

    def complete(self, connection: Http2Connection, stream: Stream) -> None:
        """Answer."""
        self.complete_streams.append(stream.id)
        connection.answer(stream, status(200), (b"abc",))

    def refuse(self, connection: Http2Connection, stream: Stream, error: SalverError) -> None:
        """Answer."""
        connection.answer(stream, status(413), ())


class Owner:
    """What a connection asks of its server."""

    def __init__(self) -> None:
        self.clock: Clock = ManualClock()
        self.settings = HttpSettings(max_body_bytes=100_000)
        self.draining = False
        self.memory = PayloadMemory(0)
        self.arrears = Arrears(0, lambda: None)
        self.identify: Identify = lambda _headers, _peer: None

    def opened(self, connection: Http2Connection) -> bool:
        """Admit."""
        return True

    def closed(self, connection: Http2Connection) -> None:
        """Forget."""


class Ours:
    """Our connection, fed with bytes; no loop is needed, since what it says is flushed by hand."""

    def __init__(self, application: Application | None = None) -> None:
        self.transport, self.application = Transport(), application or Application()
        self.connection = Http2Connection(Owner(), Http2Settings(), self.application)
        # Written when a test asks, not at the end of a turn of a loop.
        self.connection.output._is_due = True
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        self._said: list[Frame] = []

    def feed(self, data: bytes) -> None:
        """Deliver bytes."""
        if not self.transport.closed:
            self.connection.data_received(data)
            self.connection.output.flush()
            self.connection.output._is_due = True

    def said(self) -> list[Frame]:
        """Return what was written since the last time, which must be whole frames."""
        written, self.transport.written = self.transport.written, b""
        frames = list(frames_of(written))
        assert b"".join(frame.bytes() for frame in frames) == written, "a frame was not whole"
        self._said += frames
        return frames

    def fault(self) -> int | None:
        """Return the code of GOAWAY, None while the connection goes on."""
        self.said()
        faults = [frame.payload for frame in self._said if frame.kind == f.GOAWAY]
        return int.from_bytes(faults[-1][4:8]) if faults else None

    def cause(self) -> str:
        """Return the words of GOAWAY."""
        self.said()
        return next((one.payload[8:].decode() for one in self._said if one.kind == f.GOAWAY), "")

    def resets(self) -> set[int]:
        """Return the streams that were reset."""
        self.said()
        return {frame.stream for frame in self._said if frame.kind == f.RST_STREAM}


def theirs(data: bytes) -> tuple[int | None, set[int]]:
    """Return the code with which `h2` ends the connection, if so, and the streams that it reset."""
    configuration = h2.config.H2Configuration(client_side=False, header_encoding=None)
    connection = h2.connection.H2Connection(configuration)
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1024 * 1024})
    connection.initiate_connection()
    code = None
    try:
        connection.receive_data(data)
    except h2.exceptions.ProtocolError as error:
        code = int(getattr(error, "error_code", f.PROTOCOL_ERROR))
    except Exception:
        code = _NO_VERDICT
    said = frames_of(connection.data_to_send())
    return code, {frame.stream for frame in said if frame.kind == f.RST_STREAM}


def lenient(data: bytes) -> bool:
    """Tell whether a script has something about which the two may differ.

    PRIORITY (deprecated, and `h2` checks its dependencies as RFC 7540 did), frames of unknown
    kinds with flags, PUSH_PROMISE, padding, CONTINUATION after blocks that are not ours, and the
    reserved bit of WINDOW_UPDATE, which is to be ignored (6.9) and which `h2` refuses, and settings
    of extensions that a server may ignore (6.5.2), which `h2` checks (RFC 8441).
    """
    return any(
        frame.kind in (f.PRIORITY, f.PUSH_PROMISE)
        or frame.kind > f.CONTINUATION
        or frame.flags & (f.PADDED | f.HAS_PRIORITY)
        or (frame.kind == f.WINDOW_UPDATE and frame.payload > _RESERVED_BIT)
        or (frame.kind == f.SETTINGS and _EXTENSION in frame.payload)
        for frame in frames_of(data)
    )


STRICTER = frozenset(
    (
        # `h2` forgets that no such stream was ever opened.
        "RST_STREAM on an idle stream (6.4)",
    )
)
"""Words with which we end connections that `h2` lets go on."""


def comparable(data: bytes) -> bytes:
    """Return the part of a script on which both give a verdict.

    Frames and header blocks that are not whole at its end are left out, since we judge them by
    their beginning and `h2` waits; so is a client's GOAWAY and what follows, where `h2` drops what
    it had to say and takes nothing more (6.8 lets streams go on).
    """
    frames = list(itertools.takewhile(lambda frame: frame.kind != f.GOAWAY, frames_of(data)))
    while frames and frames[-1].kind in _BLOCKS and not frames[-1].flags & f.END_HEADERS:
        frames.pop()
    return b"".join(frame.bytes() for frame in frames)


def disagreement(script: bytes) -> str | None:
    """Return how the two verdicts on the frames after a greeting differ, None if they do not.

    Where one resets a stream, the other may do so or end the connection (5.4.1). We may also have
    answered: to `h2` nobody gave an answer, so its streams are open for longer.
    """
    script = comparable(script)
    if lenient(script):
        return None
    ours = Ours()
    ours.feed(GREETING + script)
    (code, resets), mine = theirs(GREETING + script), ours.fault()
    # It has no limits of its own to how often a client may send what costs it nothing.
    if code == _NO_VERDICT or mine == f.ENHANCE_YOUR_CALM:
        return None
    if mine is not None:
        excused = code is not None or resets or ours.cause() in STRICTER
        return None if excused else f"ours ended: {ours.cause()}"
    if code is not None:
        return None if ours.resets() else f"`h2` ended with {code}"
    missed = resets - ours.resets() - set(ours.application.complete_streams)
    return f"`h2` reset {missed}" if missed else None
