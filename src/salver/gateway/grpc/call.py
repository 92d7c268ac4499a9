"""One unary call: who asked, and where the answer goes."""

from collections.abc import Sequence

from salver.core.errors import SalverError
from salver.gateway.grpc.framing import Buffer, answer_encoding, whole_message
from salver.gateway.grpc.status import HEAD, OK, compressed, failure, identity
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.stream import Stream


class Call:
    """A call whose message is complete, or that is refused before it is.

    ``deadline_ns`` is its client's own, if it has one (monotonic).
    """

    __slots__ = (
        "connection",
        "deadline_ns",
        "request_id",
        "stream",
    )

    def __init__(self, connection: Http2Connection, stream: Stream, request_id: str) -> None:
        self.connection = connection
        self.stream = stream
        self.request_id = request_id
        self.deadline_ns: int | None = None

    def reply(self, parts: Sequence[Buffer], fields: bytes = b"") -> None:
        """Answer with one message, in parts; ``fields`` go with the response's head."""
        encoding = answer_encoding(self.stream.fields)
        block = HEAD + identity(self.request_id) + fields + compressed(encoding)
        self.connection.answer(self.stream, block, whole_message(parts, encoding), OK)

    def fail(self, error: SalverError) -> None:
        """Answer with a status and no message."""
        block = HEAD + identity(self.request_id) + failure(error)
        self.connection.answer(self.stream, block, ())
