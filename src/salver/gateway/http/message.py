"""One HTTP request and its answer."""

import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import orjson

from salver.core.errors import SalverError
from salver.gateway.http.heads import Head
from salver.gateway.statuses import STATUSES, text_of

Buffer = bytes | bytearray | memoryview

_REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    499: b"Client Closed Request",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    507: b"Insufficient Storage",
}
JOIN_BYTES: Final = 64 * 1024
JSON_TYPE: Final = b"application/json"
BINARY_TYPE: Final = b"application/octet-stream"
OK_TO_LENGTH: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
OK_TO_ID: Final = b"\r\nx-salver-request-id: "
_OK: Final = OK_TO_LENGTH + b"%d" + OK_TO_ID + b"%b\r\n%b\r\n%b%b"
_CLOSE: Final = b"Connection: close\r\n"
_KEEP: Final = b"Connection: keep-alive\r\n"


def body_bytes(parts: Sequence[Buffer]) -> int:
    """Return the size of a body in parts."""
    size = 0
    for part in parts:
        size += part.nbytes if isinstance(part, memoryview) else len(part)
    return size


class Outlet(Protocol):
    """The connection an answer goes to."""

    def answered(self, large_bytes: int = 0) -> None:
        """Write the answers whose turn it is; the size of one with a large body is given."""
        ...


class HttpMessage:
    """A request whose body is complete, and the place for its answer.

    Header names are lower case. ``on_gone`` is called with the message when the client leaves
    before the answer. ``head`` is what it shares with others whose head has the same bytes, if it
    was remembered.
    ``reply`` is the answer as it goes to the socket, in pieces where joining them would copy much.
    ``close`` says that the connection ends with the answer, ``keep`` that a client of HTTP/1.0 must
    be told that it does not. ``peer`` is the subject of the certificate that the client showed on
    this connection, if any.
    """

    __slots__ = (
        "arrival_ns",
        "body",
        "close",
        "head",
        "head_only",
        "headers",
        "keep",
        "method",
        "on_gone",
        "outlet",
        "peer",
        "reply",
        "request_id",
        "target",
    )

    def __init__(self, outlet: Outlet, arrival_ns: int, peer: str = "") -> None:
        self.outlet = outlet
        self.arrival_ns = arrival_ns
        self.peer = peer
        self.method = self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.body: Buffer = b""
        self.head: Head | None = None
        self.on_gone: Callable[[HttpMessage], None] | None = None
        self.reply: bytes | list[Buffer] | None = None
        self.close = self.keep = self.head_only = False
        self.request_id = ""

    def __repr__(self) -> str:
        """Describe the request without its values, which may be sensitive."""
        return f"HttpMessage({self.method!r}, {self.request_id!r})"

    def respond_json(self, identity: bytes, opening: bytes, rest: bytes) -> None:
        """Answer 200 with a short JSON body of two parts and the request's id.

        ``identity`` are complete lines that go with it.
        """
        request_id = self.request_id.encode()
        if self.close or self.keep or self.head_only:
            lines = b"x-salver-request-id: %b\r\n%b" % (request_id, identity)
            self.respond(200, (opening, rest), headers=lines)
            return
        self.deliver(_OK % (len(opening) + len(rest), request_id, identity, opening, rest))

    def deliver(self, reply: bytes) -> None:
        """Answer with a whole message, made of ``OK_TO_LENGTH`` and what follows it."""
        self.on_gone = None
        self.reply = reply
        self.outlet.answered()

    def respond(
        self,
        status: int,
        parts: Sequence[Buffer],
        content_type: bytes = JSON_TYPE,
        headers: bytes = b"",
    ) -> int:
        """Answer; ``headers`` are complete lines. Returns the size of the body in bytes."""
        size = body_bytes(parts)
        head = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b%b\r\n" % (
            status,
            _REASONS.get(status, b"Status"),
            content_type,
            size,
            headers,
            _CLOSE if self.close else _KEEP if self.keep else b"",
        )
        large_bytes = 0
        if self.head_only:
            self.reply = head
        elif size < JOIN_BYTES:
            self.reply = b"".join((head, *parts))
        else:
            self.reply, large_bytes = [head, *parts], size
        self.on_gone = None
        self.outlet.answered(large_bytes)
        return size

    def fail(self, error: SalverError, headers: bytes = b"") -> int:
        """Answer with a coded error."""
        if error.retry_after_s is not None:
            headers += b"Retry-After: %d\r\n" % max(1, math.ceil(error.retry_after_s))
        if error.code == "unauthenticated":
            headers += b'WWW-Authenticate: Bearer realm="salver"\r\n'
        if self.request_id:
            headers += b"x-salver-request-id: %b\r\n" % self.request_id.encode()
        body = orjson.dumps(
            {"error": text_of(error), "code": error.code, "request_id": self.request_id}
        )
        return self.respond(STATUSES[error.code].http, (body,), headers=headers)
