"""Any bytes: the server answers, ends the connection, or waits; and it agrees with `h2`.

`h2` is another implementation of the same rules. What it calls a violation that ends the
connection, we end too, and what it accepts we accept, but for the differences named here.
"""

import itertools
import struct
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from salver.core.clock import Clock, ManualClock
from salver.core.errors import SalverError
from salver.core.settings import Http2Settings, HttpSettings
from salver.gateway.h2 import frames as f
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.headers import literal, status
from salver.gateway.h2.stream import Stream
from salver.gateway.http.memory import PayloadMemory
from salver.gateway.http.prelude import PREFACE

CORPUS = Path(__file__).parent / "corpus"
BLOCK = b"".join(
    literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/v2/models/m/infer"),
        (b":authority", b"test"),
    )
)


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

    def opened(self, connection: Http2Connection) -> bool:
        """Admit."""
        return True

    def closed(self, connection: Http2Connection) -> None:
        """Forget."""


class Ours:
    """Our connection, fed with bytes; no loop is needed, since what it says is flushed by hand."""

    def __init__(self) -> None:
        self.transport, self.application = Transport(), Application()
        self.connection = Http2Connection(Owner(), Http2Settings(), self.application)
        # Written when a test asks, not at the end of a turn of a loop.
        self.connection.output._is_due = True
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    def feed(self, data: bytes) -> None:
        """Deliver bytes."""
        if not self.transport.closed:
            self.connection.data_received(data)
            self.connection.output.flush()
            self.connection.output._is_due = True

    def fault(self) -> int | None:
        """Return the code of GOAWAY, None while the connection goes on."""
        data, position, code = self.transport.written, 0, None
        while position < len(data):
            high, low, kind, _, _ = f.HEAD.unpack_from(data, position)
            start = position + f.HEAD_BYTES
            position = start + (high << 16 | low)
            if kind == f.GOAWAY:
                code = struct.unpack_from(">I", data, start + 4)[0]
        assert position == len(data), "a frame was not whole"
        return code


def theirs(data: bytes) -> int | None:
    """Return the code with which `h2` ends the connection, None while it goes on."""
    configuration = h2.config.H2Configuration(client_side=False, header_encoding=None)
    connection = h2.connection.H2Connection(configuration)
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1024 * 1024})
    connection.initiate_connection()
    try:
        connection.receive_data(data)
    except h2.exceptions.ProtocolError as error:
        return int(getattr(error, "error_code", f.PROTOCOL_ERROR))
    except Exception:
        return -1
    return None


def frame_bytes(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame."""
    return f.frame(kind, flags, stream, payload)


PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.just(BLOCK),
    st.just(b""),
    st.builds(lambda n: struct.pack(">I", n), st.integers(0, 2**32 - 1)),
    st.builds(
        lambda name, value: struct.pack(">HI", name, value),
        st.integers(0, 8),
        st.one_of(st.integers(0, 70_000), st.integers(2**31 - 2, 2**31 + 2)),
    ),
    st.just(bytes(8)),
    st.just(bytes(5)),
)
FRAMES = st.builds(
    frame_bytes,
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x25, 0x2D, 0xFF]),
    st.sampled_from([0, 1, 1, 1, 3, 3, 5, 2, 7]),
    PAYLOADS,
)
SCRIPTS = st.lists(FRAMES, max_size=8).map(b"".join)


@given(data=st.binary(max_size=400), greets=st.booleans())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes(data: bytes, *, greets: bool) -> None:
    """Nothing raises, whatever comes, and what is said is made of whole frames."""
    ours = Ours()
    ours.feed((PREFACE + f.settings_frame({}) if greets else b"") + data)
    ours.fault()


@given(data=SCRIPTS, cuts=st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_frames_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    """Frames mean the same however they are cut, and what ends a connection ends it once."""
    whole, pieces = Ours(), Ours()
    script = PREFACE + f.settings_frame({}) + data
    whole.feed(script)
    edges = sorted({0, len(script), *[cut for cut in cuts if cut < len(script)]})
    for start, stop in itertools.pairwise(edges):
        pieces.feed(script[start:stop])
    assert whole.fault() == pieces.fault()
    assert whole.application.complete_streams == pieces.application.complete_streams


def lenient(data: bytes) -> bool:
    """Tell whether a script has something about which the two may differ.

    PRIORITY (deprecated, and `h2` checks its dependencies as RFC 7540 did), frames of unknown
    kinds with flags, PUSH_PROMISE, padding, and CONTINUATION after blocks that are not ours.
    """
    position = 0
    while position + f.HEAD_BYTES <= len(data):
        high, low, kind, flags, _ = f.HEAD.unpack_from(data, position)
        if kind in (f.PRIORITY, f.PUSH_PROMISE, 10) or flags & (f.PADDED | f.HAS_PRIORITY):
            return True
        position += f.HEAD_BYTES + (high << 16 | low)
    return False


@given(data=SCRIPTS)
@settings(
    max_examples=800,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much],
)
@example(data=f.frame(f.HEADERS, 5, 1, BLOCK) + f.frame(f.DATA, 0, 1, b"x"))
def test_the_verdicts_of_another_implementation(data: bytes) -> None:
    """A script of frames that ends `h2`'s connection ends ours, and none that it accepts does."""
    if lenient(data):
        return
    ours = Ours()
    ours.feed(PREFACE + f.settings_frame({}) + data)
    expected = theirs(PREFACE + f.settings_frame({}) + data)
    mine = ours.fault()
    if expected is None:
        assert mine is None, f"ours ended with {mine}"
    elif expected == -1:
        return
    else:
        # A stricter reading may end a stream where another ends the connection.
        assert mine is not None or _reset(ours), f"`h2` ended with {expected}"


def _reset(ours: Ours) -> bool:
    """Tell whether a stream was reset."""
    data, position = ours.transport.written, 0
    while position < len(data):
        high, low, kind, _, _ = f.HEAD.unpack_from(data, position)
        if kind == f.RST_STREAM:
            return True
        position += f.HEAD_BYTES + (high << 16 | low)
    return False


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.bin")), ids=lambda path: path.name)
def test_the_corpus(path: Path) -> None:
    """Inputs that once went wrong do not again."""
    ours = Ours()
    ours.feed(path.read_bytes())
    ours.fault()
