"""Frames of RFC 9113: their numbers, and the bytes of those that a server sends."""

import struct
from typing import Final

HEAD_BYTES: Final = 9
DEFAULT_FRAME_BYTES: Final = 16_384
LARGEST_FRAME_BYTES: Final = 16_777_215
LARGEST_WINDOW: Final = 2**31 - 1
LARGEST_STREAM: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
DEFAULT_TABLE_BYTES: Final = 4096

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
SETTINGS_TIMEOUT: Final = 0x4
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

HEAD: Final = struct.Struct(">BHBBI")
_SETTING: Final = struct.Struct(">HI")
_WORD: Final = struct.Struct(">I")
_TWO_WORDS: Final = struct.Struct(">II")


class ConnectionFault(Exception):
    """What ends a connection (RFC 9113, 5.4.1): an error code, and words for whoever debugs it."""

    def __init__(self, code: int, cause: str) -> None:
        super().__init__(cause)
        self.code = code
        self.cause = cause


class StreamFault(Exception):
    """What ends one stream (RFC 9113, 5.4.2)."""

    def __init__(self, stream: int, code: int, cause: str) -> None:
        super().__init__(cause)
        self.stream = stream
        self.code = code
        self.cause = cause


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def head(size_bytes: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the head of a frame whose payload follows."""
    return HEAD.pack(size_bytes >> 16, size_bytes & 0xFFFF, kind, flags, stream)


def settings_frame(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values.items()))


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return settings in the order in which they take effect; raises ``ConnectionFault``."""
    if len(payload) % _SETTING.size:
        raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS is not a multiple of 6 bytes (6.5)")
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, _WORD.pack(increment))


def rst_stream(stream: int, code: int) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, _WORD.pack(code))


def goaway(last_stream: int, code: int, cause: str = "") -> bytes:
    """Return a GOAWAY frame."""
    return frame(GOAWAY, 0, 0, _TWO_WORDS.pack(last_stream, code) + cause.encode())


def word(payload: bytes) -> int:
    """Return a frame's 32-bit payload."""
    return int(_WORD.unpack(payload)[0])


def unpadded(payload: bytes, flags: int) -> bytes:
    """Return a payload without its padding (6.1, 6.2); raises ``ConnectionFault``."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "the padding is as long as the frame (6.1)")
    return payload[1 : len(payload) - payload[0]]
