"""REST over HTTP/2: a stream as the message that the routes know."""

from collections.abc import Callable, Sequence
from typing import Final

from salver.core.errors import SalverError
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.headers import lines, literal, status
from salver.gateway.h2.stream import Stream
from salver.gateway.http.body import Buffer
from salver.gateway.http.message import JSON_TYPE, HttpMessage

Handle = Callable[[HttpMessage], None]
Refuse = Callable[[HttpMessage, SalverError], None]


class _Nowhere:
    """Outlet of messages that send their answers themselves."""

    def answered(self, large_bytes: int = 0) -> None:
        """Nothing is waiting to be written."""


_NOWHERE: Final = _Nowhere()


class StreamMessage(HttpMessage):
    """A request on a stream; its answer leaves as frames."""

    __slots__ = ("connection", "stream")

    def __init__(self, connection: Http2Connection, stream: Stream) -> None:
        super().__init__(_NOWHERE, stream.begun_ns, connection.peer)
        self.connection = connection
        self.stream = stream

    def respond_json(self, identity: bytes, opening: bytes, rest: bytes) -> None:
        """Answer 200 with a short JSON body of two parts and the request's id."""
        line = b"x-salver-request-id: %b\r\n%b" % (self.request_id.encode(), identity)
        self.respond(200, (opening, rest), headers=line)

    def respond(
        self,
        status_code: int,
        parts: Sequence[Buffer],
        content_type: bytes = JSON_TYPE,
        headers: bytes = b"",
    ) -> int:
        """Answer; ``headers`` are complete lines. Returns the size of the body in bytes."""
        size = sum([p.nbytes if isinstance(p, memoryview) else len(p) for p in parts])
        block = b"".join(
            (
                status(status_code),
                literal(b"content-type", content_type),
                literal(b"content-length", b"%d" % size),
                lines(headers),
            )
        )
        self.on_gone = None
        self.connection.answer(self.stream, block, () if self.head_only else parts)
        return size

    def leave(self) -> None:
        """Tell whoever makes the answer that the client has given up."""
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone(self)


def message_of(connection: Http2Connection, stream: Stream) -> StreamMessage:
    """Return a stream's request, whose body is complete, as a message."""
    fields = stream.fields
    headers = {name: value for name, value in fields.items() if name[:1] != b":"}
    authority = fields.get(b":authority")
    if authority is not None:
        headers.setdefault(b"host", authority)
    message = StreamMessage(connection, stream)
    message.method, message.target = fields[b":method"], fields[b":path"]
    message.headers, message.body = headers, stream.body.whole()
    stream.on_gone = message.leave
    return message


class Rest:
    """Application that hands complete requests to the routes."""

    def __init__(self, handle: Handle, refuse: Refuse) -> None:
        self._handle = handle
        self._refuse = refuse

    def begin(self, connection: Http2Connection, stream: Stream) -> None:
        """Wait for the body."""

    def data(self, connection: Http2Connection, stream: Stream) -> None:
        """Wait for the rest of it."""

    def complete(self, connection: Http2Connection, stream: Stream) -> None:
        """Hand the request over."""
        self._handle(message_of(connection, stream))

    def refuse(self, connection: Http2Connection, stream: Stream, error: SalverError) -> None:
        """Answer a request that could not be read."""
        self._refuse(message_of(connection, stream), error)
