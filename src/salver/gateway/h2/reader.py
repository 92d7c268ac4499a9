"""Cuts the bytes of a connection into frames, and joins the frames of header blocks."""

from collections.abc import Callable

from salver.gateway.h2 import frames as f
from salver.gateway.http.prelude import PREFACE

_MAX_HEADER_FRAMES = 16
_PRIORITY_BYTES = 5

Handle = Callable[[int, int, int, bytes], None]


class FrameReader:
    """Hands on whole frames; whoever gets them may raise ``ConnectionFault``."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._rest = b""
        self._greeted = False
        self.stopped = False

    def feed(self, data: bytes) -> None:
        """Take new bytes; raises ``ConnectionFault``."""
        if self._rest:
            data = self._rest + data
        self._rest = data[self._take(data) :]

    def _take(self, data: bytes) -> int:
        """Hand on the frames that are complete; returns where the first unfinished one begins."""
        position, end = 0, len(data)
        if not self._greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise f.ConnectionFault(f.PROTOCOL_ERROR, "this is not HTTP/2 (3.4)")
            if end < len(PREFACE):
                return 0
            self._greeted = True
            position = len(PREFACE)
        unpack, head_bytes, handle = f.HEAD.unpack_from, f.HEAD_BYTES, self._handle
        while end - position >= head_bytes and not self.stopped:
            high, low, kind, flags, number = unpack(data, position)
            size = high << 16 | low
            if size > f.DEFAULT_FRAME_BYTES:
                raise f.ConnectionFault(f.FRAME_SIZE_ERROR, "a frame is over 16,384 bytes (4.2)")
            start = position + head_bytes
            if start + size > end:
                break
            position = start + size
            handle(kind, flags, number & f.LARGEST_STREAM, data[start:position])
        return position


class HeaderBlock:
    """A header block that may come in several frames; ``stream`` is 0 while none is open."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self.stream = 0
        self.flags = 0

    def check(self, kind: int, number: int) -> None:
        """Raise ``ConnectionFault`` when another frame comes while a block is open."""
        if self.stream and (kind != f.CONTINUATION or number != self.stream):
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "a header block was interrupted (6.10)")

    def begin(self, flags: int, number: int, payload: bytes) -> bytes | None:
        """Take HEADERS; returns the block when that is all of it."""
        fragment = f.unpadded(payload, flags)
        if flags & f.HAS_PRIORITY:
            if len(fragment) < _PRIORITY_BYTES:
                raise f.ConnectionFault(f.FRAME_SIZE_ERROR, "HEADERS lacks its priority (6.2)")
            fragment = fragment[_PRIORITY_BYTES:]
        if flags & f.END_HEADERS:
            self.flags = flags
            return fragment
        self.stream, self.flags = number, flags
        self._parts, self._size_bytes = [fragment], len(fragment)
        return None

    def go_on(self, flags: int, payload: bytes) -> bytes | None:
        """Take CONTINUATION; returns the block when it is complete."""
        if not self.stream:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "CONTINUATION without HEADERS (6.10)")
        self._parts.append(payload)
        self._size_bytes += len(payload)
        if len(self._parts) > _MAX_HEADER_FRAMES or self._size_bytes > self._max_bytes:
            raise f.ConnectionFault(f.ENHANCE_YOUR_CALM, "a header block without end")
        if not flags & f.END_HEADERS:
            return None
        block, self._parts, self.stream = b"".join(self._parts), [], 0
        return block
