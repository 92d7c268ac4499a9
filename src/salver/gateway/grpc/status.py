"""How a call ends: gRPC's statuses in header blocks."""

import math
from typing import Final
from urllib.parse import quote

from salver.core.errors import SalverError
from salver.gateway.grpc.framing import ENCODINGS
from salver.gateway.h2.headers import literal, status
from salver.gateway.statuses import STATUSES, text_of

CONTENT_TYPE: Final = b"application/grpc"
# What the gRPC protocol lets stand in a message as it is; everything else is percent-encoded.
_SAFE: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

HEAD: Final = (
    status(200)
    + literal(b"content-type", CONTENT_TYPE)
    + literal(b"grpc-accept-encoding", ENCODINGS)
)
OK: Final = literal(b"grpc-status", b"0")


def identity(request_id: str) -> bytes:
    """Return the field that names a request."""
    return literal(b"x-salver-request-id", request_id.encode())


def compressed(encoding: bytes | None) -> bytes:
    """Return the field that says how messages are compressed, nothing where none is."""
    return b"" if encoding is None else literal(b"grpc-encoding", encoding)


def failure(error: SalverError) -> bytes:
    """Return the trailers of a call that failed, with Salver's own code beside gRPC's."""
    text = quote(text_of(error).strip(), safe=_SAFE).encode()
    block = literal(b"grpc-status", b"%d" % STATUSES[error.code].grpc)
    block += literal(b"grpc-message", text) + literal(b"x-salver-code", error.code.encode())
    if error.retry_after_s is not None:
        pushback_ms = max(1, math.ceil(error.retry_after_s * 1000))
        block += literal(b"grpc-retry-pushback-ms", b"%d" % pushback_ms)
    return block
