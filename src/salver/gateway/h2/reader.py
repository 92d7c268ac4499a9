"""Cuts the bytes of a connection into frames, and joins the frames of header blocks."""

from collections.abc import Callable
from typing import Final

from salver.gateway.h2 import frames as f
from salver.gateway.h2.skim import MAX_REFUSED_BYTES, REFUSED_STEP_BYTES, Skimmer, endless
from salver.gateway.http.prelude import PREFACE

_MAX_HEADER_FRAMES: Final = 16
_USUAL_FRAME_BYTES: Final = 4096
_PRIORITY_BYTES: Final = 5

Handle = Callable[[int, int, int, bytes], None]
TakeRun = Callable[[memoryview, int], int]


class FrameReader:
    """Hands on whole frames; whoever gets them may raise ``ConnectionFault``.

    ``take_run`` is offered the frames of large reads first, from a position on, and returns the
    position of the first that it has left. ``rest`` is the beginning of a frame whose end has not
    come, and all that came since it was ``paused``: then it must be fed before more is read.
    """

    def __init__(self, handle: Handle, take_run: TakeRun) -> None:
        self._handle = handle
        self._take_run = take_run
        self.rest = b""
        self._greeted = False
        self.stopped = self.paused = False

    def feed(self, data: bytes) -> None:
        """Take new bytes; raises ``ConnectionFault``."""
        if self.rest:
            data = self.rest + data
        self.rest = data[self._take(data) :]

    def feed_large(self, view: memoryview) -> None:
        """Take the rest and the new bytes after it; the memory may change afterwards.

        Raises ``ConnectionFault``.
        """
        position, end, taken = 0, view.nbytes, 1
        while taken:
            position = self._take_run(view, position)
            if end - position < f.HEAD_BYTES:
                break
            high, low, *_ = f.HEAD.unpack_from(view, position)
            stop = min(position + f.HEAD_BYTES + (high << 16 | low), end)
            taken = self._take(bytes(view[position:stop]))
            position += taken
        self.rest = bytes(view[position:])

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
        while end - position >= head_bytes and not (self.stopped or self.paused):
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
    """A header block that may come in several frames; ``stream`` is 0 while none is open.

    Of a block over ``max_bytes`` nothing is kept: a reader that ``skim`` gives has what comes.
    """

    def __init__(self, max_bytes: int, skim: Callable[[], Skimmer]) -> None:
        self._max_bytes = max_bytes
        self._skim = skim
        self._skimmer: Skimmer | None = None
        self._parts: list[bytes] = []
        self._frame_count = 0
        self._size_bytes = self._steps = 0
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
        self._frame_count, self._skimmer, self._steps = 1, None, 0
        return None

    def steps(self) -> int:
        """Return the ``REFUSED_STEP_BYTES`` that a skimmed block began since the last call."""
        if self._size_bytes <= self._max_bytes:
            return 0
        before, self._steps = self._steps, -(-self._size_bytes // REFUSED_STEP_BYTES)
        return self._steps - before

    def go_on(self, flags: int, payload: bytes) -> bytes | Skimmer | None:
        """Take CONTINUATION; returns the block when it is complete."""
        if not self.stream:
            raise f.ConnectionFault(f.PROTOCOL_ERROR, "CONTINUATION without HEADERS (6.10)")
        self._size_bytes += len(payload)
        self._frame_count += 1
        frames = _MAX_HEADER_FRAMES + self._size_bytes // _USUAL_FRAME_BYTES
        if self._frame_count > frames or self._size_bytes > MAX_REFUSED_BYTES:
            raise endless()
        self._parts.append(payload)
        if self._skimmer is None and self._size_bytes > self._max_bytes:
            self._skimmer = self._skim()
        block, skimmer = b"", self._skimmer
        if skimmer is not None or flags & f.END_HEADERS:
            block, self._parts = b"".join(self._parts), []
        if skimmer is not None:
            skimmer.feed(block)
        if not flags & f.END_HEADERS:
            return None
        self.stream, self._skimmer = 0, None
        return block if skimmer is None else skimmer
