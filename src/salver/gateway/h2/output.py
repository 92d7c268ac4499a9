"""What leaves a connection: header blocks at once, bodies as far as flow control lets them."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from salver.core.clock import Clock
from salver.gateway.h2 import frames as f
from salver.gateway.h2.stream import Stream
from salver.gateway.http.body import Buffer
from salver.observe.logs import get_logger

log = get_logger(__name__)

# So much of a stream leaves before others get their turn, in frames as long as the peer allows.
_TURN_BYTES: Final = 256 * 1024
_JOIN_BYTES: Final = 64 * 1024
# Our blocks never refer to the dynamic table, so that none is as good as any.
_NO_TABLE: Final = b"\x20"


class Output:
    """Writes frames; those of one turn of the loop leave as one write.

    ``ended`` is called with each stream whose last frame was queued, ``grew`` with the size of each
    large part of an answer; ``held_bytes`` is what flow control holds back. Windows are the peer's
    (RFC 9113, 6.9): ``window`` is the connection's, ``initial_window`` that of new streams.
    ``resizes`` makes the next header block begin with a change of the table's size (RFC 7541, 4.2).
    """

    def __init__(
        self, ended: Callable[[Stream], None], grew: Callable[[int], None], clock: Clock
    ) -> None:
        self._clock = clock
        self._grew = grew
        self.window = f.DEFAULT_WINDOW
        self.initial_window = f.DEFAULT_WINDOW
        self.max_frame_bytes = f.DEFAULT_FRAME_BYTES
        self.paused = self.resizes = False
        self.transport: asyncio.Transport | None = None
        self.waiting: dict[int, Stream] = {}
        self.held_bytes = 0
        self._ended = ended
        self._out: list[Buffer] = []
        self._out_bytes = 0
        self._is_due = False

    @property
    def queued_bytes(self) -> int:
        """Bytes that leave at the end of this turn."""
        return self._out_bytes

    def put(self, data: Buffer) -> None:
        """Queue complete frames."""
        self._out.append(data)
        self._out_bytes += _size(data)
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what was queued; a transport that does not take it is aborted."""
        self._is_due = False
        out, self._out = self._out, []
        size, self._out_bytes = self._out_bytes, 0
        transport = self.transport
        if not out or transport is None or transport.is_closing():
            return
        try:
            if len(out) == 1:
                transport.write(out[0])
            elif size <= _JOIN_BYTES:
                transport.write(b"".join(out))
            else:
                transport.writelines(out)
        except Exception:  # its clients would wait for ever, and whoever answers would suffer
            log.exception("answers_not_written")
            transport.abort()

    def head(self, stream: int, block: bytes, *, ends: bool) -> bytes:
        """Return the frames of a header block (6.2, 6.10)."""
        flags = f.END_STREAM if ends else 0
        limit = self.max_frame_bytes
        if self.resizes:
            self.resizes, block = False, _NO_TABLE + block
        if len(block) <= limit:
            return f.head(len(block), f.HEADERS, flags | f.END_HEADERS, stream) + block
        parts = [block[start : start + limit] for start in range(0, len(block), limit)]
        kinds = [(f.HEADERS, flags), *[(f.CONTINUATION, 0)] * (len(parts) - 1)]
        kinds[-1] = (kinds[-1][0], kinds[-1][1] | f.END_HEADERS)
        pairs = zip(kinds, parts, strict=True)
        return b"".join([f.frame(kind, flag, stream, part) for (kind, flag), part in pairs])

    def begin(self, stream: Stream, block: bytes) -> None:
        """Send the head of an answer whose body follows."""
        self.put(self.head(stream.id, block, ends=False))

    def answer(
        self, stream: Stream, block: bytes, body: Sequence[Buffer], trailers: bytes | None = None
    ) -> None:
        """Send a whole answer: head, body, and trailers if there are any."""
        size = sum([_size(part) for part in body])
        if not size and trailers is None:
            self.put(self.head(stream.id, block, ends=True))
            self._ended(stream)
            return
        if size <= min(self.window, stream.send_window, self.max_frame_bytes, _JOIN_BYTES):
            self._at_once(stream, block, b"".join(body), trailers)
            return
        self.begin(stream, block)
        self.data(stream, body, trailers, ends=True)

    def _at_once(self, stream: Stream, block: bytes, body: bytes, trailers: bytes | None) -> None:
        size, number = len(body), stream.id
        self.window -= size
        stream.send_window -= size
        head = self.head(number, block, ends=False)
        flags = f.END_STREAM if trailers is None else 0
        data = f.head(size, f.DATA, flags, number)
        end = b"" if trailers is None else self.head(number, trailers, ends=True)
        self.put(b"".join((head, data, body, end)))
        self._ended(stream)

    def data(
        self,
        stream: Stream,
        parts: Sequence[Buffer],
        trailers: bytes | None = None,
        *,
        ends: bool = False,
    ) -> None:
        """Send a part of a body, as far as the windows allow, and the rest when they open."""
        if stream.outgoing is None:
            stream.outgoing = deque()
        for part in parts:
            size = _size(part)
            if size:
                stream.outgoing.append(part)
                stream.held_bytes += size
                self.held_bytes += size
            if size >= _JOIN_BYTES:
                self._grew(size)
        if ends:
            stream.ends, stream.trailers = True, trailers
        self.waiting[stream.id] = stream
        self.pump()

    def pump(self) -> None:
        """Send what windows and socket allow, a part of each waiting stream in turn (6.9)."""
        progress = True
        while progress and not self.paused and (self.window > 0 or self._ends_wait()):
            progress = False
            for stream in list(self.waiting.values()):
                progress = self._one_turn(stream) or progress

    def _ends_wait(self) -> bool:
        """Tell whether some stream has nothing left to say but that it ends."""
        return any(not stream.outgoing for stream in self.waiting.values())

    def _one_turn(self, stream: Stream) -> bool:
        """Send the next part of a stream; False when there is none to send now."""
        if not stream.outgoing:
            del self.waiting[stream.id]
            if not stream.ends:
                return False
            if stream.trailers is None:
                self.put(f.frame(f.DATA, f.END_STREAM, stream.id))
            else:
                self.put(self.head(stream.id, stream.trailers, ends=True))
            self._ended(stream)
            return True
        limit = min(self.window, stream.send_window, _TURN_BYTES)
        if limit <= 0:
            return False
        part = memoryview(stream.outgoing.popleft()).cast("B")
        if part.nbytes > limit:
            stream.outgoing.appendleft(part[limit:])
            part = part[:limit]
        self.window -= part.nbytes
        self.held_bytes -= part.nbytes
        stream.send_window -= part.nbytes
        stream.progress_ns = self._clock.monotonic_ns()
        stream.held_bytes -= part.nbytes
        last = stream.ends and not stream.outgoing and stream.trailers is None
        self._cut(part, stream.id, f.END_STREAM if last else 0)
        if last:
            del self.waiting[stream.id]
            self._ended(stream)
        elif stream.sink is not None:
            stream.sink.sent()
        return True

    def _cut(self, part: memoryview, number: int, flags: int) -> None:
        """Queue a part in frames of DATA; the flags are those of the last."""
        size, limit = part.nbytes, self.max_frame_bytes
        rest = (size - 1) // limit * limit
        if rest:
            head = f.head(limit, f.DATA, 0, number)
            for start in range(0, rest, limit):
                self._out += (head, part[start : start + limit])
            self._out_bytes += rest + rest // limit * f.HEAD_BYTES
        self.put(f.head(size - rest, f.DATA, flags, number))
        self.put(part[rest:])

    def forget(self, stream: Stream) -> None:
        """Drop what a stream still had to say."""
        self.held_bytes -= stream.held_bytes
        stream.outgoing, stream.held_bytes = None, 0
        self.waiting.pop(stream.id, None)


def _size(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
