"""Messages in the body of a call: a flag, a length, the bytes; and the call's own fields."""

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from salver.core.errors import BodyTooLarge, InvalidRequest
from salver.gateway.http.inflate import MAX_DEFLATED_BYTES, deflate, inflate

Buffer = bytes | bytearray | memoryview

PREFIX: Final = struct.Struct(">BI")
_UNITS_NS: Final = {
    b"H": 3_600_000_000_000,
    b"M": 60_000_000_000,
    b"S": 1_000_000_000,
    b"m": 1_000_000,
    b"u": 1000,
    b"n": 1,
}
_TIMEOUT_DIGITS: Final = 8
ENCODINGS: Final = b"identity,deflate,gzip"
# Shorter answers are not worth it.
_MIN_PACKED_BYTES: Final = 1024


def expected_bytes(first: bytes, limit_bytes: int) -> int | None:
    """Return how long a body of one message is, None as long as that is unknown.

    Raises ``BodyTooLarge`` before anything is kept for a message over the limit.
    """
    if len(first) < PREFIX.size:
        return None
    size: int = PREFIX.unpack_from(first)[1]
    if size > limit_bytes:
        raise BodyTooLarge(f"a message of {size} bytes is over the limit of {limit_bytes}")
    return PREFIX.size + size


def only_message(body: Buffer, fields: Mapping[bytes, bytes], limit_bytes: int) -> Buffer:
    """Return the one message of a unary call, inflated.

    Raises ``InvalidRequest``, ``UnsupportedEncoding`` or ``BodyTooLarge``.
    """
    if len(body) < PREFIX.size:
        raise InvalidRequest("a call needs one message; none came")
    compressed, size = PREFIX.unpack_from(body)
    if PREFIX.size + size != len(body):
        raise InvalidRequest(
            f"a call of this kind needs one message; {len(body)} bytes came, {size} were announced"
        )
    if size > limit_bytes:
        raise BodyTooLarge(f"a message of {size} bytes is over the limit of {limit_bytes}")
    return inflated(memoryview(body)[PREFIX.size :], compressed, fields, limit_bytes)


def inflated(
    message: Buffer, compressed: int, fields: Mapping[bytes, bytes], limit_bytes: int
) -> Buffer:
    """Return a message whose compressed flag is so, as it was before compression.

    Raises ``InvalidRequest``, ``UnsupportedEncoding`` or ``BodyTooLarge``.
    """
    if compressed > 1:
        raise InvalidRequest("the compressed flag of a message is neither 0 nor 1")
    if not compressed:
        return message
    encoding = fields.get(b"grpc-encoding", b"identity")
    if encoding == b"identity":
        raise InvalidRequest("a message is compressed, and grpc-encoding does not say how")
    return inflate(message, encoding, limit_bytes)


def framed(size_bytes: int) -> bytes:
    """Return what goes before a message of so many bytes."""
    return PREFIX.pack(0, size_bytes)


def answer_encoding(fields: Mapping[bytes, bytes]) -> bytes | None:
    """Return how a client that compresses wants its answers compressed, None for not at all."""
    name = fields.get(b"grpc-encoding")
    if name not in (b"gzip", b"deflate"):
        return None
    accepted = fields.get(b"grpc-accept-encoding", b"").split(b",")
    return name if name in [item.strip() for item in accepted] else None


def whole_message(parts: Sequence[Buffer], encoding: bytes | None) -> list[Buffer]:
    """Return a message with what goes before it, compressed where that is asked for and pays."""
    size = sum([p.nbytes if isinstance(p, memoryview) else len(p) for p in parts])
    if encoding is not None and _MIN_PACKED_BYTES <= size <= MAX_DEFLATED_BYTES:
        (packed, *_), _ = deflate(parts, encoding)
        if len(packed) < size:
            return [PREFIX.pack(1, len(packed)), packed]
    return [framed(size), *parts]


def timeout_ns(value: bytes) -> int:
    """Return ``grpc-timeout`` in nanoseconds; raises ``InvalidRequest``."""
    digits, unit = value[:-1], _UNITS_NS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS:
        raise InvalidRequest("grpc-timeout must be at most eight digits and one of H M S m u n")
    return int(digits) * unit
