"""Frames of the ceiling: `<u32 id> <u32 length> <payload>`, little endian."""

from __future__ import annotations

import struct

HEADER = struct.Struct("<II")
ANSWER = struct.Struct("<q2f")
"""One row's answer: the label and the two probabilities."""


class FrameBuffer:
    """Cuts a byte stream into frames and keeps an unfinished tail for the next call."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return every complete `(id, payload)` in arrival order."""
        if self._tail:
            data = self._tail + data
        frames: list[tuple[int, bytes]] = []
        start, end = 0, len(data)
        while end - start >= HEADER.size:
            frame_id, length = HEADER.unpack_from(data, start)
            stop = start + HEADER.size + length
            if stop > end:
                break
            frames.append((frame_id, data[start + HEADER.size : stop]))
            start = stop
        self._tail = data[start:]
        return frames
