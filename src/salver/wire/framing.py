"""Frames: a fixed prefix, a MessagePack message, raw payload bytes.

The prefix is a 32-bit header length and a 64-bit payload length, little-endian. Sizes are checked
before anything is allocated. A large payload is received straight into a buffer of its own, which
then belongs to the receiver; small ones are copied out of the shared receive buffer. Until a peer
has proved who it is, only one small frame without payload is read.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from salver.core.errors import WireError
from salver.wire.messages import Message

Buffer = bytes | bytearray | memoryview

PREFIX: Final = struct.Struct("<IQ")
_PREFIX_BYTES: Final = PREFIX.size
_unpack = PREFIX.unpack_from
# A plan is one message, with the signatures of all versions once for each of their workers.
MAX_HEADER_BYTES: Final = 64 * 1024 * 1024
MAX_GREETING_BYTES: Final = 16 * 1024
LARGE_BYTES: Final = 64 * 1024
_RECEIVE_BYTES: Final = 256 * 1024

Allocate = Callable[[int], Buffer]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message, payload_bytes: int) -> bytes:
    """Return prefix and message; the caller sends ``payload_bytes`` raw bytes after it.

    Raises ``WireError`` when no peer would take it, and when it holds a number that MessagePack
    cannot carry.
    """
    try:
        header = _encoder.encode(message)
    except OverflowError as error:
        raise WireError("a message holds a number of more than 64 bits") from error
    if len(header) > MAX_HEADER_BYTES:
        raise _too_large(len(header), payload_bytes)
    return PREFIX.pack(len(header), payload_bytes) + header


def size_of(buffers: Sequence[Buffer]) -> int:
    """Return the length of all buffers together, in bytes."""
    total = 0
    for buffer in buffers:
        total += buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
    return total


class FrameReceiver:
    """Cuts a byte stream into messages.

    ``buffer()`` is where the next bytes go; ``received(n)`` says that n came and returns the
    messages they completed. It returns at most the first one until ``trust()`` was called, which
    returns those that came with it. Raises ``WireError`` for frames that are too large or
    malformed. ``allocate`` makes the writable memory of a large payload.
    """

    __slots__ = (
        "_allocate",
        "_data",
        "_end",
        "_large",
        "_large_filled",
        "_large_message",
        "_max_bytes",
        "_trusted",
        "_view",
    )

    def __init__(self, max_bytes: int, allocate: Allocate = bytearray) -> None:
        self._max_bytes = max_bytes
        self._allocate = allocate
        self._trusted = False
        self._data = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._data)
        self._end = 0
        self._large: memoryview | None = None
        self._large_filled = 0
        self._large_message: Message | None = None

    @property
    def begun_bytes(self) -> int:
        """Bytes that are here of a message that is not complete."""
        return self._end if self._large is None else self._large_filled

    def buffer(self) -> memoryview:
        """Return the free memory that the socket shall write into; never empty."""
        if self._large is not None:
            return self._large[self._large_filled :]
        return self._view[self._end :]

    def trust(self) -> list[tuple[Message, Buffer]]:
        """Read whatever the peer sends from now on; returns what came with its first message."""
        self._trusted = True
        return self._cut()

    def received(self, count: int) -> list[tuple[Message, Buffer]]:
        """Take note of ``count`` new bytes and return the complete messages."""
        if self._large is not None:
            return self._received_large(count)
        self._end += count
        return self._cut()

    def _received_large(self, count: int) -> list[tuple[Message, Buffer]]:
        large, message = self._large, self._large_message
        assert large is not None
        assert message is not None
        self._large_filled += count
        if self._large_filled < large.nbytes:
            return []
        self._large = self._large_message = None
        return [(message, large)]

    def _cut(self) -> list[tuple[Message, Buffer]]:
        messages: list[tuple[Message, Buffer]] = []
        view, start, end = self._view, 0, self._end
        while end - start >= _PREFIX_BYTES:
            header_size, payload_size = _unpack(view, start)
            if header_size > MAX_HEADER_BYTES or payload_size > self._max_bytes:
                raise _too_large(header_size, payload_size)
            if not self._trusted and (payload_size or header_size > MAX_GREETING_BYTES):
                raise _too_large(header_size, payload_size)
            body = start + _PREFIX_BYTES
            payload = body + header_size
            stop = payload + payload_size
            if stop <= end:
                messages.append((_decode(view[body:payload]), view[payload:stop].tobytes()))
                start = stop
                if not self._trusted:
                    break
                continue
            if payload_size >= LARGE_BYTES and payload <= end:
                self._begin_large(_decode(view[body:payload]), payload, payload_size)
                return messages
            self._make_room(start, stop if payload_size < LARGE_BYTES else payload)
            return messages
        if start == end:
            self._end = 0
        else:
            self._make_room(start, end + _PREFIX_BYTES)
        return messages

    def _begin_large(self, message: Message, payload: int, payload_size: int) -> None:
        arrived = self._end - payload
        self._large = memoryview(self._allocate(payload_size))
        self._large[:arrived] = self._view[payload : self._end]
        self._large_filled = arrived
        self._large_message = message
        self._end = 0

    def _make_room(self, start: int, needed_end: int) -> None:
        """Move the unfinished frame to the front, into a larger buffer when it needs one."""
        rest = self._end - start
        needed = needed_end - start
        if needed >= len(self._data):
            data = bytearray(needed + _RECEIVE_BYTES)
            data[:rest] = self._view[start : self._end]
            self._data, self._view = data, memoryview(data)
        elif start:
            self._data[:rest] = self._data[start : self._end]
        self._end = rest


def _too_large(header_size: int, payload_size: int) -> WireError:
    if header_size > MAX_HEADER_BYTES:
        return WireError(
            f"a message of {header_size} bytes is over the limit of {MAX_HEADER_BYTES}; if it is "
            "the plan, deploy fewer endpoints or replicas, or models with smaller signatures"
        )
    return WireError(
        f"a frame of {header_size} + {payload_size} bytes is over the limit; raise "
        "engine.max_frame_bytes if tensors of that size are meant"
    )


def _decode(header: memoryview) -> Message:
    try:
        message: Message = _decoder.decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"a message could not be read: {error}") from error
    return message
