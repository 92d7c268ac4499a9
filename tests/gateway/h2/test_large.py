"""Large bodies: the way that copies each frame once means what the plain way means."""

import itertools
import socket
import struct
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core.clock import Clock, ManualClock
from salver.core.errors import SalverError
from salver.core.garbage import give_back
from salver.core.settings import Http2Settings, HttpSettings
from salver.gateway.grpc.wire import bytes_field
from salver.gateway.h2 import frames as f
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.headers import literal, status
from salver.gateway.h2.large import LargeReads
from salver.gateway.h2.stream import Stream
from salver.gateway.http.arrears import Arrears
from salver.gateway.http.large import LARGE_BODY_BYTES
from salver.gateway.http.memory import PayloadMemory
from salver.gateway.http.ports import Identify
from salver.gateway.http.prelude import PREFACE
from tests.gateway.h2.inmemory import Transport
from tests.gateway.h2.wire import Wire
from tests.gateway.inprocess import RunningServer, until

LIMIT_BYTES = 200_000
OPEN_WINDOWS = (1024 * 1024, 16 * 1024 * 1024)
STREAMS = (1, 3, 5)
INFER = b"/inference.GRPCInferenceService/ModelInfer"


def head(stream: int, length: int | None = None, path: bytes = b"/v2/models/m/infer") -> bytes:
    """Return HEADERS of a request with a body."""
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"t")]
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    if path == INFER:
        fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return f.frame(f.HEADERS, f.END_HEADERS, stream, b"".join(literal(*one) for one in fields))


def data_frames(stream: int, body: bytes, size: int = 16_384) -> list[bytes]:
    """Return a body in frames, the last of which ends the stream."""
    starts = range(0, len(body), size)
    flags = [0] * (len(starts) - 1) + [f.END_STREAM]
    pairs = zip(starts, flags, strict=True)
    return [f.frame(f.DATA, flag, stream, body[start : start + size]) for start, flag in pairs]


class Switched(Transport):
    """Transport in memory that delivers to the protocol of the moment, as a loop does."""

    def __init__(self, memory: memoryview) -> None:
        super().__init__()
        self.protocol: Http2Connection | LargeReads | None = None
        self.large_reads = 0
        self._memory = memory

    def set_protocol(self, protocol: Http2Connection | LargeReads) -> None:
        """Take another protocol."""
        self.protocol = protocol

    def deliver(self, data: bytes) -> None:
        """Let what reads now have bytes, in as many reads as it needs."""
        while data and not self.closed:
            if isinstance(self.protocol, LargeReads):
                room = self.protocol.get_buffer(-1)
                size = min(len(room), len(data))
                room[:size] = data[:size]
                self.large_reads += 1
                self.protocol.buffer_updated(size)
                # Another connection may read now.
                self._memory[:] = b"\xee" * len(self._memory)
            else:
                assert self.protocol is not None
                size = len(data)
                self.protocol.data_received(data)
            data = data[size:]


class Collector:
    """Application that keeps whole bodies; with a size, as if each body's beginning told it."""

    def __init__(self, sizes: dict[int, int]) -> None:
        self.bodies: dict[int, bytes] = {}
        self.refused: dict[int, str] = {}
        self._sizes = sizes

    def begin(self, connection: Http2Connection, stream: Stream) -> None:
        """Wait."""

    def data(self, connection: Http2Connection, stream: Stream) -> None:
        """Learn how long the body is."""
        if stream.body.is_open_ended and stream.id in self._sizes:
            stream.body.expect(self._sizes[stream.id])

    def complete(self, connection: Http2Connection, stream: Stream) -> None:
        """Keep the body."""
        self.bodies[stream.id] = bytes(stream.body.whole())
        connection.answer(stream, status(200), (b"abc",))

    def refuse(self, connection: Http2Connection, stream: Stream, error: SalverError) -> None:
        """Take note."""
        self.refused[stream.id] = error.code
        connection.answer(stream, status(413), ())


class Owner:
    """What a connection asks of its server."""

    def __init__(self) -> None:
        self.clock: Clock = ManualClock()
        self.settings = HttpSettings(max_body_bytes=LIMIT_BYTES)
        self.draining = False
        self.memory = PayloadMemory(0)
        self.arrears = Arrears(0, lambda: None)
        self.identify: Identify = lambda _headers, _peer: None

    def opened(self, connection: Http2Connection) -> bool:
        """Admit."""
        return True

    def closed(self, connection: Http2Connection) -> None:
        """Forget."""


class End:
    """A server's end of a connection, in memory."""

    def __init__(self, *, large: bool, sizes: dict[int, int], windows: tuple[int, int]) -> None:
        owner, self.application = Owner(), Collector(sizes)
        self.transport = Switched(owner.memory.read_memory)
        limits = Http2Settings(
            large_reads=large, stream_window_bytes=windows[0], connection_window_bytes=windows[1]
        )
        self.connection = Http2Connection(owner, limits, self.application)
        self.connection.output._is_due = True
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        self.transport.protocol = self.connection
        self.feed(PREFACE + f.settings_frame({}))

    def feed(self, data: bytes) -> None:
        """Deliver bytes, and let what is said to them be written."""
        self.transport.deliver(data)
        self.connection.output.flush()
        self.connection.output._is_due = True

    def said(self) -> list[tuple[int, int, bytes]]:
        """Return all that was said but window updates, whose number may differ."""
        written, position, frames = self.transport.written, 0, []
        while position < len(written):
            high, low, kind, flags, stream = f.HEAD.unpack_from(written, position)
            start = position + f.HEAD_BYTES
            position = start + (high << 16 | low)
            if kind != f.WINDOW_UPDATE:
                frames.append((kind << 8 | flags, stream, written[start:position]))
        return frames

    def granted(self) -> dict[int, int]:
        """Return what the client may send, or will be allowed to when it is worth a frame."""
        windows, streams = self.connection._windows, self.connection._streams.values()
        granted = {one.id: one.receive_window + one.owed_bytes for one in streams}
        return granted | {0: windows.window + windows._owed, -1: windows.unfinished_bytes}


def agree(
    script: bytes, cuts: list[int], sizes: dict[int, int], windows: tuple[int, int] = OPEN_WINDOWS
) -> End:
    """Feed both ways with the same bytes in the same pieces, and compare; returns the large way."""
    ways = [End(large=large, sizes=sizes, windows=windows) for large in (True, False)]
    edges = sorted({0, len(script), *[cut % (len(script) + 1) for cut in cuts]})
    for start, stop in itertools.pairwise(edges):
        for way in ways:
            way.feed(script[start:stop])
    large, plain = ways
    assert large.application.bodies == plain.application.bodies
    assert large.application.refused == plain.application.refused
    assert large.said() == plain.said()
    assert large.transport.closed == plain.transport.closed
    if not plain.transport.closed:
        assert large.granted() == plain.granted()
    assert plain.transport.large_reads == 0
    return large


def pattern(size: int, seed: int) -> bytes:
    """Return bytes of which no two parts are alike."""
    return np.random.default_rng(seed).bytes(size)


LARGE = st.sampled_from([1, 100, 16_000, 16_384, 16_384, 16_384, 16_384])
PIECES = st.tuples(
    st.sampled_from(STREAMS),
    st.one_of(LARGE, LARGE, LARGE, st.just(0), st.just(16_385)),
    st.sampled_from([0, 0, 0, 0, 0, 0, 0, 0, f.END_STREAM, f.PADDED, 0x40]),
)
OTHERS = st.sampled_from(
    [
        f.frame(f.PING, 0, 0, bytes(8)),
        f.rst_stream(1, f.CANCEL),
        f.rst_stream(3, f.CANCEL),
        f.window_update(0, 1000),
        f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 5, literal(b"a", b"b")),
        f.frame(f.HEADERS, 0, 7, literal(b"a", b"b")),
        f.settings_frame({}),
        f.frame(0x60, 0, 0, b"unknown"),
    ]
)


@given(
    lengths=st.tuples(*[st.sampled_from([None, 90_000, 150_000, LIMIT_BYTES])] * 3),
    told=st.sampled_from([{}, {1: 120_000, 3: 180_000}, {1: 80_000, 5: 16_384 * 6}]),
    pieces=st.lists(st.one_of(PIECES, PIECES, PIECES, PIECES, OTHERS), max_size=60),
    cuts=st.lists(st.integers(0, 10_000_000), max_size=12),
    windows=st.tuples(
        st.sampled_from([82_000, 100_000, 1024 * 1024]), st.sampled_from([65_535, 1024 * 1024])
    ),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_frames_mean_the_same_both_ways(
    lengths: tuple[int | None, ...],
    told: dict[int, int],
    pieces: list[tuple[int, int, int] | bytes],
    cuts: list[int],
    windows: tuple[int, int],
) -> None:
    """Whatever comes, however it is cut: the same bodies, answers, faults and windows."""
    script = [head(number, length) for number, length in zip(STREAMS, lengths, strict=True)]
    # Some that have memory of their own from here on.
    script += [f.frame(f.DATA, 0, number, bytes(16_384)) for number in STREAMS[:2]] * 5
    cuts = [*cuts, len(b"".join(script))]
    for index, piece in enumerate(pieces):
        if isinstance(piece, bytes):
            script.append(piece)
            continue
        number, size, flags = piece
        script.append(f.frame(f.DATA, flags, number, pattern(size, index)))
    agree(b"".join(script), cuts, told, windows)


def whole_bodies() -> tuple[bytes, dict[int, bytes]]:
    """Return a script in which the frames of three bodies alternate, and the bodies."""
    bodies = {number: pattern(100_000 + number, number) for number in STREAMS}
    rows = [data_frames(number, body) for number, body in bodies.items()]
    mixed = [one for row in itertools.zip_longest(*rows, fillvalue=b"") for one in row]
    heads = [head(number, len(body)) for number, body in bodies.items()]
    return b"".join((*heads, *mixed)), bodies


def test_bodies_that_alternate() -> None:
    """Frames of several streams in turn make each body whole, and are read in large reads."""
    script, bodies = whole_bodies()
    cuts = list(range(0, len(script), 50_000))
    end = agree(script, cuts, {})
    assert end.application.bodies == bodies
    assert end.transport.large_reads > 0
    assert end.transport.protocol is end.connection, "the large reads did not end"


@pytest.mark.parametrize("offset", range(-12, 13))
def test_cuts_at_every_boundary(offset: int) -> None:
    """A read may end anywhere in a frame's head or beside it."""
    body = pattern(190_000, 1)
    script = head(1, len(body)) + b"".join(data_frames(1, body))
    first = len(head(1, len(body)))
    edges = range(first, len(script), f.HEAD_BYTES + 16_384)
    end = agree(script, [edge + offset for edge in edges], {})
    assert end.application.bodies == {1: body}
    assert end.transport.large_reads > 2


def test_one_byte_at_a_time() -> None:
    """Nor does it matter how small the pieces are."""
    body = pattern(LARGE_BODY_BYTES + 20_000, 1)
    script = head(1) + b"".join(data_frames(1, body, 300))
    tail = range(len(script) - 2000, len(script))
    end = agree(script, [LARGE_BODY_BYTES + 5000, *tail], {1: len(body)})
    assert end.application.bodies == {1: body}
    assert end.transport.large_reads > 1000


def test_a_fault_within_a_large_body_ends_the_connection() -> None:
    """A frame over the limit is one in the middle of a large read, too."""
    body = pattern(150_000, 1)
    script = head(1, len(body)) + b"".join(data_frames(1, body)[:6])
    script += f.head(16_385, f.DATA, 0, 1) + bytes(16_385)
    end = agree(script, [100_000], {})
    kinds = [kind >> 8 for kind, _, _ in end.said()]
    assert end.transport.closed
    assert kinds[-1] == f.GOAWAY


def test_empty_frames_within_a_large_body_are_counted() -> None:
    """Frames that bring nothing are a flood among those that do."""
    frames = data_frames(1, pattern(150_000, 1))[:8]
    empty = f.frame(f.DATA, 0, 1) * 2000
    end = agree(head(1, 150_000) + b"".join(frames) + empty, [100_000], {})
    assert end.transport.closed
    assert struct.unpack_from(">II", end.said()[-1][2])[1] == f.ENHANCE_YOUR_CALM


def test_one_read_may_be_more_than_the_window() -> None:
    """What came within windows that were opened on the way is no fault."""
    body = pattern(190_000, 1)
    script = head(1, len(body)) + b"".join(data_frames(1, body))
    end = agree(script, [90_000], {}, (1024 * 1024, 65_535))
    assert end.application.bodies == {1: body}


def test_a_body_that_must_wait_cannot_go_on() -> None:
    """Over what all bodies may hold together, a later one gets no further than its window."""
    rows = [data_frames(number, pattern(199_000, number)) for number in STREAMS]
    begun = [frame for row, count in zip(rows, (12, 5, 8), strict=True) for frame in row[:count]]
    begun.sort(key=lambda frame: frame[8] == 3)
    script = b"".join([head(number, 199_000) for number in STREAMS] + begun)
    more = b"".join(rows[1][5:11])
    end = agree(script + more, [len(script)], {}, (100_000, 200_000))
    assert end.transport.large_reads > 0
    resets = [(stream, one[-4:]) for kind, stream, one in end.said() if kind >> 8 == f.RST_STREAM]
    assert resets == [(3, struct.pack(">I", f.FLOW_CONTROL_ERROR))]


def test_the_window_of_a_large_body_is_widened() -> None:
    """Its rest may come at once, within the connection's window; one body at a time."""
    window, size = 80_000, 195_000
    heads = head(1, size) + head(3, size)
    begun = [f.frame(f.DATA, 0, number, bytes(16_384)) for number in (1, 3)] * 4
    for connection, wide in ((1024 * 1024, size - 4 * 16_384), (100_000, 100_000)):
        end = agree(heads + b"".join(begun), [], {}, (window, connection))
        granted = end.granted()
        assert (granted[1], granted[3]) == (wide, window)


def test_a_body_over_the_limit() -> None:
    """That its beginning told a size does not make a body any longer than one may be."""
    body = pattern(LIMIT_BYTES + 50_000, 1)
    script = head(1) + b"".join(data_frames(1, body)[:13])
    end = agree(script, [90_000], {1: len(body)})
    assert end.application.refused == {1: "body_too_large"}


# A whole server


def message(values: np.ndarray) -> bytes:
    """Return the framed message of a request with one raw tensor."""
    name = b"identity-fp32"
    item = b"\x0a\x01x\x12\x04FP32\x1a" + bytes([1 + len(varint(values.size))])
    item += b"\x01" + varint(values.size)
    fields = b"\x0a" + bytes([len(name)]) + name + bytes_field(5, len(item)) + item
    whole = fields + bytes_field(7, values.nbytes) + values.tobytes()
    return struct.pack(">BI", 0, len(whole)) + whole


def varint(value: int) -> bytes:
    """Return a number as a varint."""
    parts = b""
    while value > 127:
        parts += bytes([value & 127 | 128])
        value >>= 7
    return parts + bytes([value])


def greeted(server: RunningServer) -> Wire:
    """Return a connection whose windows are open as far as they can be."""
    wire = Wire(server.port)
    wire.send(f.settings_frame({f.INITIAL_WINDOW_SIZE: 2**31 - 1}) + f.window_update(0, 2**30))
    return wire


WIDE_BYTES = 256 * 1024 * 1024


@pytest.fixture(params=[True, False], ids=["large reads", "plain"])
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """Give a server of either way whose windows let a test send without waiting."""
    limits = Http2Settings(
        stream_window_bytes=WIDE_BYTES,
        connection_window_bytes=WIDE_BYTES,
        large_reads=request.param,
    )
    with RunningServer(http2=limits) as running:
        yield running


def test_a_large_tensor_comes_back(server: RunningServer) -> None:
    """A call whose message has no announced length is answered with every byte, more than once."""
    values = np.random.default_rng(0).random(2_000_000, np.float32)
    body = message(values)
    with greeted(server) as wire:
        for number in (1, 3):
            wire.send(head(number, path=INFER) + b"".join(data_frames(number, body)))
            _, answer, trailers = wire.answer(number)
            assert trailers["grpc-status"] == "0"
            assert answer.endswith(values.tobytes())


def test_large_answers_take_turns(server: RunningServer) -> None:
    """Two large answers at once come in frames of the size that the client reads, both whole."""
    values = np.random.default_rng(0).random(500_000, np.float32)
    server.computer.hold = True
    with greeted(server) as wire:
        for number in (1, 3):
            wire.send(head(number, path=INFER) + b"".join(data_frames(number, message(values))))
        until(lambda: len(server.computer.waiting) == 2)
        wire.send(f.settings_frame({f.INITIAL_WINDOW_SIZE: 0}) + f.frame(f.PING, 0, 0, bytes(8)))
        wire.until(f.PING)
        server.release()
        heads = 0
        while heads < 2:
            heads += wire.until(f.HEADERS).stream in (1, 3)
        wire.send(f.settings_frame({f.INITIAL_WINDOW_SIZE: 2**31 - 1}))
        bodies: dict[int, bytes] = {1: b"", 3: b""}
        widest, ended = 0, 0
        while ended < 2:
            frame = next(wire.frames())
            if frame.kind == f.DATA:
                assert len(frame.payload) <= f.DEFAULT_FRAME_BYTES
                bodies[frame.stream] += frame.payload
                widest = max(widest, abs(len(bodies[1]) - len(bodies[3])))
            ended += bool(frame.kind == f.HEADERS and frame.flags & f.END_STREAM)
    for body in bodies.values():
        assert body.endswith(values.tobytes())
    assert widest <= 512 * 1024, "one answer went before the other"


def resident() -> int:
    """Return how much memory this process takes."""
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda wire: wire.send(f.rst_stream(1, f.CANCEL)), id="reset"),
        pytest.param(lambda wire: wire.end(), id="closed"),
        pytest.param(lambda wire: wire.send(f.frame(f.PING, 0, 0, b"x")), id="fault"),
    ],
)
def test_a_client_that_leaves_midway_gives_memory_back(
    server: RunningServer, leave: Callable[[Wire], None]
) -> None:
    """What was kept of a body does not outlive its stream, however that ends."""
    size = 100_000_000
    piece = f.frame(f.DATA, 0, 1, bytes(16_384))
    assert server.server is not None
    with greeted(server) as wire:
        # What was kept of earlier bodies would go meanwhile, and hide as much of this one.
        server.run(server.server.memory.forget)
        give_back()
        before = resident()
        wire.send(head(1, path=INFER))
        wire.send(f.frame(f.DATA, 0, 1, struct.pack(">BI", 0, size) + b"\1" * 16_000))
        for _ in range(80_000_000 // 16_384):
            wire.send(piece)
        until(lambda: resident() - before > 70_000_000)
        leave(wire)
        until(lambda: resident() - before < 20_000_000)


def test_the_connection_goes_on_after_a_reset(server: RunningServer) -> None:
    """Rests of a large body that was given up are dropped, and the next call is answered."""
    values = np.arange(100_000, dtype=np.float32)
    frames = data_frames(1, message(values))
    with greeted(server) as wire:
        wire.send(head(1, path=INFER) + b"".join(frames[:10]))
        wire.send(f.rst_stream(1, f.CANCEL))
        wire.send(head(3, path=INFER) + b"".join(data_frames(3, message(values))))
        assert wire.answer(3)[2]["grpc-status"] == "0"


def test_a_client_that_does_not_read_is_not_read(server: RunningServer) -> None:
    """While its answers wait, a client's large bodies do as well, and all come in the end."""
    values = np.random.default_rng(0).random(6_000_000, np.float32)
    body = message(values)
    with greeted(server) as wire:
        wire._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        wire.send(head(1, path=INFER) + b"".join(data_frames(1, body)))
        wire._socket.settimeout(30)
        wire.send(head(3, path=INFER) + b"".join(data_frames(3, message(values[:200_000]))))
        assert wire.answer(1)[2]["grpc-status"] == "0"
        _, answer, trailers = wire.answer(3)
        assert trailers["grpc-status"] == "0"
        assert answer.endswith(values[:200_000].tobytes())
