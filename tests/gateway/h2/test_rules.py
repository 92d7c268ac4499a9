"""The rules of RFC 9113 for frames: what breaks one ends the stream or the connection, and no more.

Each case names the section it stands for.
"""

import struct

import pytest

from salver.gateway.h2 import frames as f
from salver.gateway.h2.headers import literal
from salver.gateway.http.prelude import PREFACE
from tests.gateway.h2.wire import GET_LIVE, Wire
from tests.gateway.inprocess import RunningServer

WORD = struct.Struct(">I")


def setting(name: int, value: int) -> bytes:
    """Return a SETTINGS frame with one value."""
    return f.frame(f.SETTINGS, 0, 0, struct.pack(">HI", name, value))


def request(stream: int = 1, *, ends: bool = True, **changes: bytes | None) -> bytes:
    """Return HEADERS of a request with fields changed, added or (None) left out."""
    fields = dict(GET_LIVE)
    for name, value in changes.items():
        key = name.replace("_", "-").encode()
        key = b":" + key[7:] if key.startswith(b"pseudo-") else key
        if value is None:
            fields.pop(key, None)
        else:
            fields[key] = value
    block = b"".join(literal(name, value) for name, value in fields.items())
    flags = f.END_HEADERS | (f.END_STREAM if ends else 0)
    return f.frame(f.HEADERS, flags, stream, block)


PLAIN = request()
OPEN = request(ends=False, pseudo_method=b"POST", pseudo_path=b"/v2/models/identity-fp32/infer")
BLOCK = PLAIN[f.HEAD_BYTES :]

CONNECTION: dict[str, tuple[bytes, int]] = {
    "4.2 a frame over the limit": (f.head(16_385, f.DATA, 0, 1), f.FRAME_SIZE_ERROR),
    "4.3 a block that cannot be decoded": (
        f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, b"\xff\xff\xff\xff\xff\x0f"),
        f.COMPRESSION_ERROR,
    ),
    "4.3 an index beyond the table": (
        f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, b"\xfe"),
        f.COMPRESSION_ERROR,
    ),
    "4.3 a table larger than allowed": (
        f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, b"\x3f\xe1\xff\x03" + BLOCK),
        f.COMPRESSION_ERROR,
    ),
    "5.1 DATA on an idle stream": (f.frame(f.DATA, 0, 5, b"x"), f.PROTOCOL_ERROR),
    "5.1 RST_STREAM on an idle stream": (f.rst_stream(5, f.CANCEL), f.PROTOCOL_ERROR),
    "5.1 WINDOW_UPDATE on an idle stream": (f.window_update(5, 1), f.PROTOCOL_ERROR),
    "5.1.1 an even stream": (request(2), f.PROTOCOL_ERROR),
    "5.1.1 stream zero": (request(0), f.PROTOCOL_ERROR),
    "6.1 DATA without a stream": (f.frame(f.DATA, 0, 0, b"x"), f.PROTOCOL_ERROR),
    "6.1 padding as long as the frame": (
        OPEN + f.frame(f.DATA, f.PADDED, 1, b"\x05abcd"),
        f.PROTOCOL_ERROR,
    ),
    "6.2 HEADERS with padding as long as the frame": (
        f.frame(f.HEADERS, f.END_HEADERS | f.PADDED, 1, b"\x04abc"),
        f.PROTOCOL_ERROR,
    ),
    "6.2 HEADERS too short for its priority": (
        f.frame(f.HEADERS, f.END_HEADERS | f.HAS_PRIORITY, 1, b"abc"),
        f.FRAME_SIZE_ERROR,
    ),
    "6.3 PRIORITY without a stream": (f.frame(f.PRIORITY, 0, 0, bytes(5)), f.PROTOCOL_ERROR),
    "6.3 PRIORITY of another size on an idle stream": (
        f.frame(f.PRIORITY, 0, 1, bytes(4)),
        f.FRAME_SIZE_ERROR,
    ),
    "6.3 PRIORITY of another size on a stream that is not the client's": (
        OPEN + f.frame(f.PRIORITY, 0, 2, bytes(4)),
        f.FRAME_SIZE_ERROR,
    ),
    "6.4 RST_STREAM without a stream": (f.rst_stream(0, f.CANCEL), f.PROTOCOL_ERROR),
    "6.4 RST_STREAM of another size": (
        OPEN + f.frame(f.RST_STREAM, 0, 1, b"abc"),
        f.FRAME_SIZE_ERROR,
    ),
    "6.5 SETTINGS on a stream": (f.frame(f.SETTINGS, 0, 1), f.PROTOCOL_ERROR),
    "6.5 SETTINGS of another size": (f.frame(f.SETTINGS, 0, 0, b"abc"), f.FRAME_SIZE_ERROR),
    "6.5 SETTINGS ACK with a payload": (
        f.frame(f.SETTINGS, f.ACK, 0, bytes(6)),
        f.FRAME_SIZE_ERROR,
    ),
    "6.5.2 ENABLE_PUSH of two": (setting(f.ENABLE_PUSH, 2), f.PROTOCOL_ERROR),
    "6.5.2 a window over 2^31-1": (setting(f.INITIAL_WINDOW_SIZE, 2**31), f.FLOW_CONTROL_ERROR),
    "6.5.2 a frame size below 16,384": (setting(f.MAX_FRAME_SIZE, 100), f.PROTOCOL_ERROR),
    "6.5.2 a frame size over 2^24-1": (setting(f.MAX_FRAME_SIZE, 2**24), f.PROTOCOL_ERROR),
    "6.7 PING on a stream": (f.frame(f.PING, 0, 1, bytes(8)), f.PROTOCOL_ERROR),
    "6.7 PING of another size": (f.frame(f.PING, 0, 0, bytes(7)), f.FRAME_SIZE_ERROR),
    "6.8 GOAWAY on a stream": (f.frame(f.GOAWAY, 0, 1, bytes(8)), f.PROTOCOL_ERROR),
    "6.8 GOAWAY of another size": (f.frame(f.GOAWAY, 0, 0, bytes(7)), f.FRAME_SIZE_ERROR),
    "6.9 WINDOW_UPDATE of another size": (
        f.frame(f.WINDOW_UPDATE, 0, 0, b"abc"),
        f.FRAME_SIZE_ERROR,
    ),
    "6.9 WINDOW_UPDATE of nothing": (f.window_update(0, 0), f.PROTOCOL_ERROR),
    "6.9.1 a window over 2^31-1": (f.window_update(0, 2**31 - 1), f.FLOW_CONTROL_ERROR),
    "6.10 CONTINUATION without HEADERS": (
        f.frame(f.CONTINUATION, f.END_HEADERS, 1, BLOCK),
        f.PROTOCOL_ERROR,
    ),
    "6.10 a block that is interrupted": (
        f.frame(f.HEADERS, f.END_STREAM, 1, BLOCK) + f.frame(f.PING, 0, 0, bytes(8)),
        f.PROTOCOL_ERROR,
    ),
    "6.10 CONTINUATION of another stream": (
        f.frame(f.HEADERS, f.END_STREAM, 1, BLOCK) + f.frame(f.CONTINUATION, f.END_HEADERS, 3),
        f.PROTOCOL_ERROR,
    ),
    "8.4 PUSH_PROMISE from a client": (
        f.frame(f.PUSH_PROMISE, f.END_HEADERS, 1, WORD.pack(2)),
        f.PROTOCOL_ERROR,
    ),
}

STREAM: dict[str, tuple[bytes, int]] = {
    "6.3 PRIORITY of another size": (
        OPEN + f.frame(f.PRIORITY, 0, 1, bytes(4)),
        f.FRAME_SIZE_ERROR,
    ),
    "6.9 WINDOW_UPDATE of nothing": (OPEN + f.window_update(1, 0), f.PROTOCOL_ERROR),
    "6.9.1 a window over 2^31-1": (
        OPEN + f.window_update(1, 2**31 - 1),
        f.FLOW_CONTROL_ERROR,
    ),
    "8.1 trailers that do not end the request": (
        OPEN + f.frame(f.HEADERS, f.END_HEADERS, 1, literal(b"a", b"b")),
        f.PROTOCOL_ERROR,
    ),
    "8.1 pseudo-fields in trailers": (
        OPEN + f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, literal(b":path", b"/")),
        f.PROTOCOL_ERROR,
    ),
    "8.1.1 less than content-length": (
        request(ends=False, content_length=b"5") + f.frame(f.DATA, f.END_STREAM, 1, b"abc"),
        f.PROTOCOL_ERROR,
    ),
    "8.1.1 more than content-length": (
        request(ends=False, content_length=b"2") + f.frame(f.DATA, 0, 1, b"abc"),
        f.PROTOCOL_ERROR,
    ),
    "8.1.1 content-length without a body": (request(content_length=b"2"), f.PROTOCOL_ERROR),
    "8.1.1 content-length that is no number": (request(content_length=b"+2"), f.PROTOCOL_ERROR),
    "8.2.1 an upper case name": (request(Accept=b"x"), f.PROTOCOL_ERROR),
    "8.2.1 a line feed in a value": (request(accept=b"a\nb"), f.PROTOCOL_ERROR),
    "8.2.1 a null in a value": (request(accept=b"a\0b"), f.PROTOCOL_ERROR),
    "8.2.1 a space before a value": (request(accept=b" a"), f.PROTOCOL_ERROR),
    "8.2.2 connection": (request(connection=b"close"), f.PROTOCOL_ERROR),
    "8.2.2 transfer-encoding": (request(transfer_encoding=b"chunked"), f.PROTOCOL_ERROR),
    "8.2.2 te other than trailers": (request(te=b"gzip"), f.PROTOCOL_ERROR),
    "8.3 an unknown pseudo-field": (request(pseudo_status=b"200"), f.PROTOCOL_ERROR),
    "8.3.1 no method": (request(pseudo_method=None), f.PROTOCOL_ERROR),
    "8.3.1 no path": (request(pseudo_path=None), f.PROTOCOL_ERROR),
    "8.3.1 an empty path": (request(pseudo_path=b""), f.PROTOCOL_ERROR),
    "8.3.1 no scheme": (request(pseudo_scheme=None), f.PROTOCOL_ERROR),
    "8.3.1 neither :authority nor host": (request(pseudo_authority=None), f.PROTOCOL_ERROR),
    "8.3.1 an empty :authority": (request(pseudo_authority=b""), f.PROTOCOL_ERROR),
    "8.3.1 an empty host": (request(pseudo_authority=None, host=b""), f.PROTOCOL_ERROR),
    "8.3.1 another host than :authority": (request(host=b"other"), f.PROTOCOL_ERROR),
    "8.3 a pseudo-field after others": (
        f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, literal(b"a", b"b") + BLOCK),
        f.PROTOCOL_ERROR,
    ),
    "8.3 a pseudo-field twice": (
        f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, BLOCK + literal(b":path", b"/")),
        f.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("case", CONNECTION)
def test_what_ends_the_connection(server: RunningServer, case: str) -> None:
    """A connection error is answered with GOAWAY and its code, and the connection closes."""
    data, code = CONNECTION[case]
    with Wire(server.port) as wire:
        wire.send(data)
        assert wire.verdict() == ("goaway", code)
        assert list(wire.frames()) == []
    with Wire(server.port) as other:
        other.send(PLAIN)
        assert other.answer(1)[0][":status"] == "200"


@pytest.mark.parametrize("case", STREAM)
def test_what_ends_the_stream(server: RunningServer, case: str) -> None:
    """A stream error resets that stream; the next request on the connection is answered."""
    data, code = STREAM[case]
    with Wire(server.port) as wire:
        wire.send(data)
        assert wire.verdict() == ("reset", code)
        wire.send(request(3))
        assert wire.answer(3)[0][":status"] == "200"


def test_the_preface_comes_first(server: RunningServer) -> None:
    """What begins like HTTP/2 and goes on otherwise, and a first frame that is not SETTINGS."""
    with Wire(server.port, greets=False) as wire:
        wire.send(PREFACE + f.frame(f.PING, 0, 0, bytes(8)))
        assert wire.verdict() == ("goaway", f.PROTOCOL_ERROR)
    with Wire(server.port, greets=False) as wire:
        wire.send(PREFACE[:10] + b"x" * 20)
        wire.end()
        assert b"".join(frame.payload for frame in wire.frames()) is not None


def test_the_preface_in_pieces(server: RunningServer) -> None:
    """However the first bytes are cut, the client is understood."""
    for cut in range(1, len(PREFACE)):
        with Wire(server.port, greets=False) as wire:
            wire.send(PREFACE[:cut])
            wire.send(PREFACE[cut:] + f.settings_frame({}) + PLAIN)
            assert wire.answer(1)[0][":status"] == "200"


def test_every_frame_in_pieces(server: RunningServer) -> None:
    """Frames may arrive byte by byte."""
    with Wire(server.port, greets=False) as wire:
        for byte in PREFACE + f.settings_frame({}) + PLAIN:
            wire.send(bytes((byte,)))
        assert wire.answer(1)[0][":status"] == "200"


def test_host_stands_for_authority(server: RunningServer) -> None:
    """Either names whom a request is for, both if they agree, and other schemes need none."""
    requests = (
        request(pseudo_authority=None, host=b"test"),
        request(host=b"TEST"),
        request(pseudo_authority=None, pseudo_scheme=b"other"),
    )
    for data in requests:
        with Wire(server.port) as wire:
            wire.send(data)
            assert wire.answer(1)[0][":status"] == "200"


def test_unknown_frames_and_settings_are_ignored(server: RunningServer) -> None:
    """Extensions that nobody agreed on change nothing (4.1, 6.5.2)."""
    with Wire(server.port) as wire:
        wire.send(f.frame(0x77, 0xFF, 7, b"what") + setting(0x99, 7) + PLAIN)
        assert wire.answer(1)[0][":status"] == "200"


def test_pings_are_answered(server: RunningServer) -> None:
    """A PING comes back with its bytes; an ACK does not (6.7)."""
    with Wire(server.port) as wire:
        wire.send(f.frame(f.PING, f.ACK, 0, b"mine....") + f.frame(f.PING, 0, 0, b"12345678"))
        answer = wire.until(f.PING)
        assert (answer.flags, answer.payload) == (f.ACK, b"12345678")


def test_closed_streams(server: RunningServer) -> None:
    """Frames on a stream that has ended are its own fault, or are ignored where allowed (5.1)."""
    with Wire(server.port) as wire:
        wire.send(PLAIN)
        wire.answer(1)
        wire.send(f.window_update(1, 5) + f.frame(f.PRIORITY, 0, 1, bytes(5)))
        wire.send(f.frame(f.DATA, 0, 1, b"x"))
        assert wire.verdict() == ("reset", f.STREAM_CLOSED)
        wire.send(request(3))
        assert wire.answer(3)[0][":status"] == "200"
        wire.send(request(3))
        assert wire.verdict() == ("goaway", f.STREAM_CLOSED)


def test_a_reset_stream_may_still_have_frames_on_their_way(server: RunningServer) -> None:
    """What the client sent before it heard of a reset is dropped (5.4.2)."""
    with Wire(server.port) as wire:
        wire.send(OPEN + f.window_update(1, 0) + f.frame(f.DATA, 0, 1, b"x" * 100))
        assert wire.verdict() == ("reset", f.PROTOCOL_ERROR)
        wire.send(f.frame(f.DATA, f.END_STREAM, 1, b"x" * 100) + request(3))
        assert wire.answer(3)[0][":status"] == "200"
