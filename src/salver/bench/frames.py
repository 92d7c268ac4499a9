"""The part of HTTP/2 (RFC 9113) that a client needs which counts answers and keeps none."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = 0, 1, 3, 4, 5, 6, 7
WINDOW_UPDATE, CONTINUATION = 8, 9
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = (
    1, 2, 3, 4, 5,
)  # fmt: skip
FIRST_WINDOW_BYTES = 65_535
FIRST_FRAME_BYTES = 16_384
MAX_WINDOW_BYTES = 2**31 - 1
CANCEL = 8
_ERRORS = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
    "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR",
    "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip
_HEAD = struct.Struct(">HBBBL")
HEAD_BYTES = 9
_SETTING = struct.Struct(">HL")
_STREAM_MASK = 2**31 - 1
_PRIORITY_BYTES = 5


class MalformedAnswer(ValueError):
    """The server does not keep to HTTP/2; stays within the connection that reads it."""


Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload; that of DATA is left out."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame."""
    return head(kind, flags, stream, len(payload)) + payload


def head(kind: int, flags: int, stream: int, size_bytes: int) -> bytes:
    """Return what stands before a frame's payload."""
    return _HEAD.pack(size_bytes >> 8, size_bytes & 0xFF, kind, flags, stream)


def opening() -> bytes:
    """Return preface, settings and window of a client that takes all that comes.

    Without a table for headers every block of the server can be read alone, or not at all.
    """
    settings = ((HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, MAX_WINDOW_BYTES))
    payload = b"".join(_SETTING.pack(*setting) for setting in settings)
    more = window_update(MAX_WINDOW_BYTES - FIRST_WINDOW_BYTES)
    return PREFACE + frame(SETTINGS, 0, 0, payload) + more


def window_update(size_bytes: int) -> bytes:
    """Grant the connection more."""
    return frame(WINDOW_UPDATE, 0, 0, size_bytes.to_bytes(4, "big"))


def settings_of(payload: bytes) -> dict[int, int]:
    """Read a SETTINGS frame; raises ``MalformedAnswer`` for one that is cut."""
    try:
        return dict(_SETTING.iter_unpack(payload))
    except struct.error as error:
        raise MalformedAnswer("a SETTINGS frame is cut") from error


def error_name(payload: bytes) -> str:
    """Return the name of the error code at the beginning of a payload."""
    code = int.from_bytes(payload[:4], "big")
    return _ERRORS[code] if code < len(_ERRORS) else str(code)


def block_of(flags: int, payload: bytes) -> bytes:
    """Cut the header block out of a HEADERS frame; raises ``MalformedAnswer``."""
    start, stop = 0, len(payload)
    if flags & PADDED:
        start, stop = 1, stop - payload[0] if payload else -1
    if flags & PRIORITY:
        start += _PRIORITY_BYTES
    if start > stop:
        raise MalformedAnswer("a HEADERS frame is shorter than what it holds")
    return payload[start:stop]


class FrameReader:
    """Cuts a byte stream into frames; an unfinished one waits for the next call.

    ``data_bytes`` counts what came in DATA frames, which are passed over: of them only those are
    returned that end a stream.
    """

    __slots__ = ("_skip", "_tail", "data_bytes")

    def __init__(self) -> None:
        self._tail = b""
        self._skip = 0
        self.data_bytes = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Return every complete frame in order; raises ``MalformedAnswer``."""
        skip = self._skip
        if skip >= len(data):
            self._skip = skip - len(data)
            return []
        if self._tail:
            data = self._tail + data
        frames: list[Frame] = []
        start, end = skip, len(data)
        self._skip = 0
        while end - start >= HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, start)
            size = high << 8 | low
            if size > FIRST_FRAME_BYTES:
                raise MalformedAnswer(f"a frame of {size} bytes, over {FIRST_FRAME_BYTES}")
            begin = start + HEAD_BYTES
            stop = begin + size
            if kind == DATA:
                self.data_bytes += size
                if flags & END_STREAM:
                    frames.append((kind, flags, stream & _STREAM_MASK, b""))
            elif stop > end:
                break
            else:
                frames.append((kind, flags, stream & _STREAM_MASK, data[begin:stop]))
            start = stop
        if start > end:
            self._skip, self._tail = start - end, b""
        else:
            self._tail = data[start:]
        return frames
