"""The little of HTTP/2 (RFC 9113) that the ceiling and the load generator of our own share."""

from __future__ import annotations

import struct

from hpack import Decoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
FIRST_WINDOW_BYTES = 65_535
WINDOW_STEP_BYTES = 1 << 30
"""So much is granted to a connection at once; no run sends more between two looks."""
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 0x1, 0x4
STREAM_WINDOW_BYTES = 1 << 20
MAX_REMEMBERED = 256

_HEAD = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def opening() -> bytes:
    """Settings and the window with which either side begins."""
    settings = _SETTING.pack(INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES)
    return frame(SETTINGS, 0, 0, settings) + window_update(WINDOW_STEP_BYTES)


def window_update(size_bytes: int) -> bytes:
    """Grant the connection more."""
    return frame(WINDOW_UPDATE, 0, 0, size_bytes.to_bytes(4, "big"))


def settings_of(payload: bytes) -> dict[int, int]:
    """Read a SETTINGS frame."""
    return dict(_SETTING.iter_unpack(payload))


def block_of(flags: int, payload: bytes) -> bytes:
    """Cut the header block out of a HEADERS frame."""
    start, stop = 0, len(payload)
    if flags & PADDED:
        start, stop = 1, stop - payload[0]
    if flags & PRIORITY:
        start += 5
    return payload[start:stop]


class FrameReader:
    """Cuts a byte stream into frames and keeps an unfinished tail for the next call."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return every complete frame in arrival order."""
        if self._tail:
            data = self._tail + data
        frames: list[Frame] = []
        start, end = 0, len(data)
        while end - start >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, start)
            begin = start + _HEAD.size
            start_of_next = begin + (high << 8 | low)
            if start_of_next > end:
                break
            frames.append((kind, flags, stream, data[begin:start_of_next]))
            start = start_of_next
        self._tail = data[start:]
        return frames


class HeaderBlocks:
    """Header blocks of one connection, remembered by their bytes while the table stays as it is."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._known: dict[bytes, dict[bytes, bytes]] = {}

    def decode(self, block: bytes) -> dict[bytes, bytes]:
        """Return the fields of a block. Raises `hpack.HPACKError`."""
        known = self._known.get(block)
        if known is not None:
            return known
        entries = self._decoder.header_table.dynamic_entries
        newest, count = entries[0] if entries else None, len(entries)
        fields = dict(self._decoder.decode(block, raw=True))
        entries = self._decoder.header_table.dynamic_entries
        if len(entries) != count or (entries and entries[0] is not newest):
            self._known.clear()
        else:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[block] = fields
        return fields
