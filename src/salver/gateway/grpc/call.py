"""One unary call: who asked, and where the answer goes."""

from collections.abc import Sequence

import msgspec

from salver.core.errors import SalverError
from salver.gateway.grpc.framing import Buffer, framed
from salver.gateway.grpc.status import HEAD, OK, failure, identity
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.stream import Stream


class Call(msgspec.Struct, eq=False):
    """A call whose message is complete, or that is refused before it is.

    ``deadline_ns`` is its client's own, if it has one (monotonic).
    """

    connection: Http2Connection
    stream: Stream
    request_id: str
    deadline_ns: int | None = None

    def reply(self, parts: Sequence[Buffer], fields: bytes = b"") -> None:
        """Answer with one message, in parts; ``fields`` go with the response's head."""
        size = sum([p.nbytes if isinstance(p, memoryview) else len(p) for p in parts])
        block = HEAD + identity(self.request_id) + fields
        self.connection.answer(self.stream, block, (framed(size), *parts), OK)

    def fail(self, error: SalverError) -> None:
        """Answer with a status and no message."""
        block = HEAD + identity(self.request_id) + failure(error)
        self.connection.answer(self.stream, block, ())
