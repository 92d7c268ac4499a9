"""What a client may cost: floods end its own connection, and slow or greedy ones hurt nobody."""

import struct
import time
from collections.abc import Callable

import numpy as np
import orjson
import psutil
import pytest

from salver.core.clock import ManualClock
from salver.core.settings import Http2Settings, HttpSettings
from salver.gateway.h2 import frames as f
from salver.gateway.h2.headers import literal
from tests.gateway.h2.inmemory import BLOCK, GREETING, Ours
from tests.gateway.h2.test_rules import OPEN, PLAIN, request
from tests.gateway.h2.wire import GET_LIVE, Wire
from tests.gateway.inprocess import RunningServer, until

SMALL = Http2Settings(
    max_streams=8,
    control_frames_burst=50,
    control_frames_per_s=1,
    resets_burst=20,
    resets_per_s=1,
    window_updates_burst=50,
    window_updates_per_s=1,
)
INFER = b"/v2/models/identity-fp32/infer"

FLOODS: dict[str, Callable[[int], bytes]] = {
    "PING": lambda n: f.frame(f.PING, 0, 0, struct.pack(">Q", n)),
    "PING ACK": lambda n: f.frame(f.PING, f.ACK, 0, struct.pack(">Q", n)),
    "SETTINGS": lambda _: f.settings_frame({}),
    "SETTINGS ACK": lambda _: f.frame(f.SETTINGS, f.ACK, 0),
    "PRIORITY": lambda n: f.frame(f.PRIORITY, 0, 2 * n + 1, bytes(5)),
    "empty DATA": lambda n: (OPEN if n == 0 else b"") + f.frame(f.DATA, 0, 1),
    "unknown frames": lambda n: f.frame(0x60, 0, n, b"x"),
    "GOAWAY": lambda _: f.goaway(0, 0),
    "WINDOW_UPDATE": lambda _: f.window_update(0, 1),
    "opened and reset (CVE-2023-44487)": lambda n: (
        request(2 * n + 1, ends=False) + f.rst_stream(2 * n + 1, f.CANCEL)
    ),
    "requests that are refused unread": lambda n: request(
        2 * n + 1, ends=False, pseudo_method=b"POST", content_length=b"999999999999"
    ),
    "HEADERS on a stream that was reset": lambda n: (
        OPEN + f.window_update(1, 0) if n == 0 else request(1)
    ),
    "malformed requests": lambda n: request(2 * n + 1, connection=b"close"),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_floods_end_their_connection(kind: str) -> None:
    """Frames that make work and carry nothing are borne for a while, and then not."""
    make = FLOODS[kind]
    with RunningServer(http2=SMALL) as server:
        with Wire(server.port) as wire:
            wire.send(b"".join(make(n) for n in range(200)))
            frames = list(wire.frames())
            last = [frame for frame in frames if frame.kind == f.GOAWAY]
            assert last, frames[-3:]
            assert struct.unpack(">II", last[0].payload[:8])[1] == f.ENHANCE_YOUR_CALM
        with Wire(server.port) as other:
            other.send(PLAIN)
            assert other.answer(1)[0][":status"] == "200"


def test_continuations_without_end() -> None:
    """A header block has a bound in bytes and in frames (CVE-2024-27316 and its kin)."""
    with RunningServer() as server:
        for piece, count in ((b"", 100), (literal(b"x", b"y" * 1000), 100)):
            with Wire(server.port) as wire:
                wire.send(f.frame(f.HEADERS, f.END_STREAM, 1, literal(b"a", b"b")))
                wire.send(f.frame(f.CONTINUATION, 0, 1, piece) * count)
                assert wire.verdict() == ("goaway", f.ENHANCE_YOUR_CALM)


def test_a_header_list_over_the_limit() -> None:
    """A small block that decodes to a large list is a bomb, and ends the connection."""
    with RunningServer() as server, Wire(server.port) as wire:
        # One large entry in the table, and then a byte for each time it is repeated.
        entry = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000
        wire.send(f.frame(f.HEADERS, f.END_HEADERS, 1, entry + b"\xbe" * 12_000))
        assert wire.verdict() == ("goaway", f.ENHANCE_YOUR_CALM)


def long_request(number: int, more: bytes) -> bytes:
    """Return a GET whose block goes on with more, in frames of 16 KiB."""
    block = b"".join([literal(name, value) for name, value in GET_LIVE.items()]) + more
    pieces = [block[start : start + 16_384] for start in range(0, len(block), 16_384)]
    frames = [f.frame(f.HEADERS, f.END_STREAM, number, pieces[0])]
    frames += [f.frame(f.CONTINUATION, 0, number, piece) for piece in pieces[1:-1]]
    return b"".join(frames) + f.frame(f.CONTINUATION, f.END_HEADERS, number, pieces[-1])


@pytest.mark.parametrize(
    "more",
    [
        literal(b"x", b"y" * 1_000_000),
        b"\x40" + literal(b"x", b"y" * 100_000)[1:] + literal(b"z", b"y" * 50_000),
        b"".join([literal(b"x-%d" % n, b"y" * 1000) for n in range(1000)]),
    ],
    ids=["one field", "fields larger than the table", "a thousand fields"],
)
def test_a_list_over_the_limit_is_one_request_s(more: bytes) -> None:
    """Its stream is answered 431, and the connection and its table of fields go on."""
    with RunningServer() as server, Wire(server.port) as wire:
        wire.send(wire.headers(1))
        assert wire.answer(1)[0][":status"] == "200"
        wire.send(long_request(3, more))
        if more[:1] == b"\x40":
            wire.encoder.header_table.dynamic_entries.clear()
            wire.encoder.header_table._current_size = 0
        head, body, _ = wire.answer(3)
        assert (head[":status"], orjson.loads(body)["code"]) == ("431", "headers_too_large")
        for number in (5, 7):
            wire.send(wire.headers(number, GET_LIVE | {b"x-own": b"1"}))
            assert wire.answer(number)[0][":status"] == "200"


def test_lists_without_end() -> None:
    """What is too much even to be refused ends the connection: bytes, fields, lists again."""
    bytes_ = literal(b"x", b"y" * 5_000_000)
    fields = literal(b"x", b"y" * 40_000) + b"\x82" * 5000
    name = b"\x00" + literal(b"", b"y" * 100_000)[2:]
    with RunningServer(http2=Http2Settings(resets_burst=5, resets_per_s=1)) as server:
        for more in (bytes_, fields, name):
            with Wire(server.port) as wire:
                wire.send(long_request(1, more))
                assert wire.verdict() == ("goaway", f.ENHANCE_YOUR_CALM)
        with Wire(server.port) as wire:
            more = literal(b"x", b"y" * 40_000)
            wire.send(b"".join([long_request(2 * n + 1, more) for n in range(10)]))
            assert wire.verdict() == ("goaway", f.ENHANCE_YOUR_CALM)


def test_large_lists_count_by_their_size() -> None:
    """A connection pays for what it has refused, a little for each part of it, ended or not."""
    megabyte = literal(b"x", b"y" * 1_000_000)
    for burst, is_answered in ((50, True), (10, False)):
        limits = Http2Settings(resets_burst=burst, resets_per_s=1)
        with RunningServer(http2=limits) as server, Wire(server.port) as wire:
            sent = long_request(1, megabyte)
            wire.send(sent if is_answered else sent[:600_000])
            if is_answered:
                assert wire.answer(1)[0][":status"] == "431"
                wire.send(long_request(3, megabyte))
            assert wire.verdict() == ("goaway", f.ENHANCE_YOUR_CALM)


def test_long_trailers() -> None:
    """Trailers over the limit end their stream alone."""
    with RunningServer() as server, Wire(server.port) as wire:
        wire.send(request(1, ends=False, pseudo_method=b"POST", pseudo_path=INFER))
        block = literal(b"x", b"y" * 50_000)
        wire.send(f.frame(f.HEADERS, f.END_STREAM, 1, block[:16_000]))
        wire.send(f.frame(f.CONTINUATION, 0, 1, block[16_000:32_000]))
        wire.send(f.frame(f.CONTINUATION, 0, 1, block[32_000:48_000]))
        wire.send(f.frame(f.CONTINUATION, f.END_HEADERS, 1, block[48_000:]))
        assert wire.verdict() == ("reset", f.ENHANCE_YOUR_CALM)
        wire.send(wire.headers(3))
        assert wire.answer(3)[0][":status"] == "200"


def test_streams_beyond_the_limit_are_refused() -> None:
    """They were not begun, so the client may ask again (5.1.2)."""
    with RunningServer(http2=SMALL) as server, Wire(server.port) as wire:
        opened = [request(2 * n + 1, ends=False, pseudo_method=b"POST") for n in range(9)]
        wire.send(b"".join(opened))
        reset = wire.until(f.RST_STREAM)
        assert (reset.stream, f.word(reset.payload)) == (17, f.REFUSED_STREAM)


def body_of(values: int) -> bytes:
    """Return a request's body with one row of many values."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, values], "data": [0.5] * values}
    return orjson.dumps({"inputs": [item]})


def post(stream: int, body: bytes) -> bytes:
    """Return a whole POST in frames of 16 KiB."""
    head = request(stream, ends=False, pseudo_method=b"POST", pseudo_path=INFER)
    pieces = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
    frames = [f.frame(f.DATA, 0, stream, piece) for piece in pieces[:-1]]
    return b"".join((head, *frames, f.frame(f.DATA, f.END_STREAM, stream, pieces[-1])))


def test_more_data_than_the_window() -> None:
    """A client that ignores flow control is cut off (6.9.1)."""
    limits = Http2Settings(stream_window_bytes=10_000, connection_window_bytes=65_535)
    with RunningServer(http2=limits) as server, Wire(server.port) as wire:
        wire.send(OPEN + f.frame(f.DATA, 0, 1, b"x" * 16_000))
        kind, code = wire.verdict()
        assert (kind, code) == ("reset", f.FLOW_CONTROL_ERROR)


def test_answers_wait_for_the_window() -> None:
    """No byte is sent beyond the client's window, and the rest when it opens."""
    with RunningServer() as server, Wire(server.port) as wire:
        wire.send(f.frame(f.SETTINGS, 0, 0, struct.pack(">HI", f.INITIAL_WINDOW_SIZE, 10)))
        wire.send(post(1, body_of(100)))
        first = wire.until(f.DATA)
        assert len(first.payload) == 10
        wire.send(PLAIN.replace(struct.pack(">I", 1), struct.pack(">I", 3), 1))
        wire.send(f.window_update(1, 5))
        assert len(wire.until(f.DATA, 1).payload) == 5
        wire.send(f.window_update(1, 100_000))
        assert wire.until(f.DATA, 1).flags & f.END_STREAM


def test_a_large_body_arrives_whole() -> None:
    """Windows open again while a body is read, on the stream and on the connection."""
    limits = Http2Settings(stream_window_bytes=65_535, connection_window_bytes=65_535)
    values = np.arange(500_000, dtype=np.float32)
    item = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, len(values)],
        "parameters": {"binary_data_size": values.nbytes},
    }
    json = orjson.dumps({"inputs": [item], "parameters": {"binary_data_output": True}})
    data = json + values.tobytes()
    with RunningServer(http2=limits) as server, Wire(server.port) as wire:
        wire.send(f.settings_frame({f.INITIAL_WINDOW_SIZE: 2**31 - 1}))
        wire.send(f.window_update(0, 2**30))
        wire.send(
            request(
                1,
                ends=False,
                pseudo_method=b"POST",
                pseudo_path=INFER,
                inference_header_content_length=b"%d" % len(json),
                content_length=b"%d" % len(data),
            )
        )
        allowed = {0: 65_535, 1: 65_535}
        position = 0
        while position < len(data):
            size = min(16_384, len(data) - position, *allowed.values())
            if size <= 0:
                update = wire.until(f.WINDOW_UPDATE)
                allowed[update.stream] += f.word(update.payload)
                continue
            last = position + size == len(data)
            flags = f.END_STREAM if last else 0
            wire.send(f.frame(f.DATA, flags, 1, data[position : position + size]))
            position += size
            for number in allowed:
                allowed[number] -= size
        head, body, _ = wire.answer(1)
        size = int(head["inference-header-content-length"])
        assert body[size:] == values.tobytes()


def test_a_body_over_the_limit_is_refused() -> None:
    """The answer says so, and the client is told to stop."""
    with RunningServer(HttpSettings(max_body_bytes=100_000)) as server, Wire(server.port) as wire:
        wire.send(request(1, ends=False, pseudo_method=b"POST", content_length=b"100001"))
        head, body, _ = wire.answer(1)
        assert head[":status"] == "413"
        assert orjson.loads(body)["code"] == "body_too_large"
        reset = wire.until(f.RST_STREAM)
        assert (reset.stream, f.word(reset.payload)) == (1, f.NO_ERROR)
        wire.send(request(3, ends=False, pseudo_method=b"POST", pseudo_path=INFER))
        wire.send(f.frame(f.DATA, 0, 3, b" " * 16_000) * 7)
        assert wire.answer(3)[0][":status"] == "413"


def test_slow_bodies_and_silent_clients_are_let_go() -> None:
    """A body that does not come, and a client that says nothing, are waited for, but not long."""
    settings = HttpSettings(body_timeout_s=0.3, header_timeout_s=0.3, idle_timeout_s=0.5)
    with RunningServer(settings) as server:
        with Wire(server.port) as wire:
            wire.send(request(1, ends=False, pseudo_method=b"POST", pseudo_path=INFER))
            assert wire.answer(1)[0][":status"] == "408"
            assert wire.until(f.GOAWAY).payload[4:8] == bytes(4)
        with Wire(server.port) as wire:
            wire.send(f.frame(f.HEADERS, f.END_STREAM, 1, literal(b"a", b"b")))
            assert wire.verdict() == ("goaway", f.SETTINGS_TIMEOUT)


def test_a_client_that_does_not_read_costs_little() -> None:
    """Answers of closed windows are bounded by the streams, and dropped after a while."""
    settings = HttpSettings(body_timeout_s=0.5)
    with RunningServer(settings, http2=SMALL) as server, Wire(server.port) as wire:
        wire.send(f.settings_frame({f.INITIAL_WINDOW_SIZE: 0}))
        before = psutil.Process().memory_info().rss
        for number in range(8):
            wire.send(post(2 * number + 1, body_of(10_000)))
        resets = 0
        while resets < 8:
            resets += f.word(wire.until(f.RST_STREAM).payload) == f.CANCEL
        assert psutil.Process().memory_info().rss - before < 64 * 1024 * 1024


def test_draining_lets_open_requests_end() -> None:
    """GOAWAY first, then the answers that are due, then the end; new streams are refused."""
    with RunningServer() as server:
        assert server.server is not None
        server.computer.hold = True
        with Wire(server.port) as wire:
            wire.send(post(1, body_of(2)))
            until(lambda: bool(server.computer.waiting))
            done = server.begin(server.server.drain(10))
            goaway = wire.until(f.GOAWAY)
            assert struct.unpack(">II", goaway.payload[:8]) == (1, f.NO_ERROR)
            wire.send(request(3))
            assert f.word(wire.until(f.RST_STREAM, 3).payload) == f.REFUSED_STREAM
            server.release()
            assert wire.answer(1)[0][":status"] == "200"
            assert list(wire.frames()) == []
            done.result(timeout=10)


def test_a_client_that_gives_up_cancels_its_work() -> None:
    """RST_STREAM reaches whoever holds the request, and other streams go on (6.4)."""
    with RunningServer() as server:
        server.computer.hold = True
        with Wire(server.port) as wire:
            wire.send(post(1, body_of(2)) + post(3, body_of(2)))
            until(lambda: len(server.computer.waiting) == 2)
            wire.send(f.rst_stream(1, f.CANCEL))
            until(lambda: server.computer.contexts[0].cancelled)
            server.release()
            assert wire.answer(3)[0][":status"] == "200"
            assert not server.computer.contexts[1].cancelled


def test_off_means_off() -> None:
    """Without HTTP/2 its preface is what it is to HTTP/1.1: a bad request."""
    with RunningServer(http2=Http2Settings(enabled=False)) as server:
        with Wire(server.port) as wire:
            wire.send(b"")
            data = b"".join(iter(lambda: wire._socket.recv(65536), b""))
        assert data.startswith(b"HTTP/1.1 4")


def test_the_live_probe_fields() -> None:
    """A request's fields are those that were sent: the path decides, host comes from authority."""
    with RunningServer() as server, Wire(server.port) as wire:
        wire.send(wire.headers(1, GET_LIVE))
        head, body, _ = wire.answer(1)
        assert orjson.loads(body) == {"live": True}
        assert head["content-length"] == str(len(body))


def test_many_large_bodies_at_once_come_to_their_end() -> None:
    """More than may be unfinished together are read one after the other, and none is late."""
    settings = HttpSettings(max_body_bytes=1_000_000, body_timeout_s=3.0)
    limits = Http2Settings(stream_window_bytes=65_535, connection_window_bytes=65_535)
    streams, size = (1, 3, 5, 7), 900_000
    with RunningServer(settings, http2=limits) as server, Wire(server.port) as wire:
        for number in streams:
            wire.send(request(number, ends=False, pseudo_method=b"POST", pseudo_path=INFER))
        allowed = dict.fromkeys((0, *streams), 65_535)
        left = dict.fromkeys(streams, size)
        answered: dict[int, str] = {}
        while len(answered) < len(streams):
            progress = False
            for number in streams:
                part = min(16_000, left[number], allowed[0], allowed[number])
                if part <= 0:
                    continue
                progress = True
                left[number] -= part
                allowed[0] -= part
                allowed[number] -= part
                ends = f.END_STREAM if not left[number] else 0
                wire.send(f.frame(f.DATA, ends, number, b" " * part))
            if not progress:
                frame = next(wire.frames())
                if frame.kind == f.WINDOW_UPDATE:
                    allowed[frame.stream] += f.word(frame.payload)
                elif frame.kind == f.HEADERS:
                    fields = wire.decoder.decode(frame.payload)
                    answered[frame.stream] = next(str(v) for n, v in fields if str(n) == ":status")
                assert frame.kind != f.RST_STREAM
        # Blanks are no JSON, but all of them were read.
        assert answered == dict.fromkeys(streams, "400")


def test_a_steady_reader_is_not_late() -> None:
    """A client may open the connection's window only, as long as bytes get through."""
    settings = HttpSettings(body_timeout_s=1.5)
    with RunningServer(settings) as server, Wire(server.port) as wire:
        wire.send(f.settings_frame({f.INITIAL_WINDOW_SIZE: 2**31 - 1}))
        wire.send(post(1, body_of(40_000)))
        came, end = 0, time.monotonic() + 4.0
        frames = wire.frames()
        for frame in frames:
            assert frame.kind != f.RST_STREAM
            if frame.kind == f.DATA:
                came += len(frame.payload)
                if frame.flags & f.END_STREAM:
                    break
            if came >= 65_000 and time.monotonic() < end:
                time.sleep(0.3)
                wire.send(f.window_update(0, 2000))
            elif came >= 65_000:
                wire.send(f.window_update(0, 200_000))
        assert came > 100_000


def test_answers_that_nobody_takes_are_bounded() -> None:
    """While too much is held back, new requests are refused and may be asked again."""
    settings = HttpSettings(write_buffer_bytes=10_000)
    with RunningServer(settings) as server, Wire(server.port) as wire:
        wire.send(f.settings_frame({f.INITIAL_WINDOW_SIZE: 0}))
        wire.send(post(1, body_of(10_000)))
        assert wire.until(f.HEADERS).stream == 1
        wire.send(post(3, body_of(2)))
        reset = wire.until(f.RST_STREAM)
        assert (reset.stream, f.word(reset.payload)) == (3, f.REFUSED_STREAM)


def test_a_refused_request_is_answered_once() -> None:
    """What still comes of it after the refusal changes nothing."""
    with RunningServer(HttpSettings(max_body_bytes=30_000)) as server, Wire(server.port) as wire:
        wire.send(f.settings_frame({f.INITIAL_WINDOW_SIZE: 0}))
        wire.send(request(1, ends=False, pseudo_method=b"POST", pseudo_path=INFER))
        wire.send(f.frame(f.DATA, 0, 1, b" " * 16_000) * 2)
        assert wire.until(f.HEADERS).stream == 1
        wire.send(f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, literal(b"a", b"b")))
        wire.send(f.window_update(1, 10_000) + PLAIN.replace(b"\0\0\0\1", b"\0\0\0\3", 1))
        kinds = []
        for frame in wire.frames():
            kinds.append((frame.kind, frame.stream))
            if {(f.HEADERS, 3), (f.DATA, 1)} <= set(kinds):
                break
        assert (f.HEADERS, 1) not in kinds


def test_a_block_after_a_long_silence_has_its_time() -> None:
    """How long a header block may take is counted from its beginning."""
    settings = HttpSettings(header_timeout_s=2.0)
    with RunningServer(settings) as server, Wire(server.port) as wire:
        wire.send(PLAIN)
        wire.answer(1)
        time.sleep(2.6)
        block = b"".join(literal(name, value) for name, value in GET_LIVE.items())
        wire.send(f.frame(f.HEADERS, f.END_STREAM, 3, block[:20]))
        time.sleep(0.7)
        wire.send(f.frame(f.CONTINUATION, f.END_HEADERS, 3, block[20:]))
        assert wire.answer(3)[0][":status"] == "200"


def test_goaway_never_takes_back_what_it_said() -> None:
    """After a drain has begun, a fault announces no higher stream than before (6.8)."""
    with RunningServer() as server:
        assert server.server is not None
        server.computer.hold = True
        with Wire(server.port) as wire:
            wire.send(post(1, body_of(2)))
            until(lambda: bool(server.computer.waiting))
            done = server.begin(server.server.drain(10))
            first = wire.until(f.GOAWAY)
            wire.send(request(3) + f.frame(f.PING, 0, 0, b"short"))
            second = wire.until(f.GOAWAY)
            assert second.payload[:4] == first.payload[:4]
            assert second.payload[4:8] == struct.pack(">I", f.FRAME_SIZE_ERROR)
            server.release()
            done.result(timeout=10)


@pytest.mark.parametrize(("age_s", "code"), [(0.0, f.ENHANCE_YOUR_CALM), (1.0, None)])
def test_who_gives_up_late_is_no_flood(age_s: float, code: int | None) -> None:
    """Requests that held their places for a second may all be given up; hasty ones may not."""
    ours = Ours()
    clock = ours.connection._clock
    assert isinstance(clock, ManualClock)
    ours.feed(GREETING)
    for turn in range(40):
        numbers = range(500 * turn + 1, 500 * turn + 501, 2)
        ours.feed(b"".join(f.frame(f.HEADERS, f.END_HEADERS, n, BLOCK) for n in numbers))
        clock.advance(age_s)
        ours.feed(b"".join(f.rst_stream(n, f.CANCEL) for n in numbers))
    assert ours.fault() == code
