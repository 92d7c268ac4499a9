"""One stream: a request that arrives, and the answer that leaves under flow control."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from salver.core.errors import SalverError
from salver.gateway.h2.headers import Fields
from salver.gateway.http.body import Body, Buffer
from salver.gateway.http.large import LARGE_BODY_BYTES


class Sink(Protocol):
    """Takes a request's bytes while they come, and may answer before it has ended.

    It says with ``Http2Connection.consumed`` which bytes it is done with: the client may send as
    many again. No method may raise.
    """

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        ...

    def end(self) -> None:
        """Take note that the client will send no more."""
        ...

    def fail(self, error: SalverError) -> None:
        """End the answer with an error."""
        ...

    def sent(self) -> None:
        """Take note that a part of the answer has left."""
        ...

    def resume(self) -> None:
        """Take note that the client, which was behind on its connection, is so no more."""
        ...

    def drain(self) -> None:
        """Come to an end with what has arrived."""
        ...

    def overdue(self, now_ns: int) -> SalverError | None:
        """Return why the stream must end now, if the client lets it lie."""
        ...


class Stream:
    """State of one stream (RFC 9113, 5.1), from its HEADERS until both sides have ended.

    ``send_window`` and ``receive_window`` are what either side may still send.
    ``remote_open`` tells that the client may still send, ``owed_bytes`` how much window it has not
    got back, ``wide_bytes`` its window if that was widened (None until that is decided),
    ``answered`` that the answer is on its way. ``outgoing`` is what flow control holds back, if it
    ever did; ``ends`` that nothing comes after it but ``trailers``. ``on_gone`` is called once when
    the client gives up. ``rate_from_*`` is where the rate of its body is measured from, if that is
    not its beginning.

    A stream with a ``sink`` does not collect its body: the sink has it, and answers piece by piece.
    ``received_bytes`` is what came of the body, ``kept_bytes`` what of it waits for the rest, and
    ``held_bytes`` the size of ``outgoing``. A body over ``limit_bytes`` is refused; one that has
    come to ``ask_bytes`` may be, when memory is short or nobody knows its sender.
    """

    __slots__ = (
        "announced_bytes",
        "answered",
        "ask_bytes",
        "begun_ns",
        "body",
        "ends",
        "fields",
        "held_bytes",
        "id",
        "kept_bytes",
        "limit_bytes",
        "on_gone",
        "outgoing",
        "owed_bytes",
        "progress_ns",
        "rate_from_bytes",
        "rate_from_ns",
        "receive_window",
        "received_bytes",
        "remote_open",
        "send_window",
        "sink",
        "trailers",
        "wide_bytes",
    )

    def __init__(
        self, number: int, fields: Fields, body: Body, limit_bytes: int, begun_ns: int
    ) -> None:
        self.id = number
        self.fields = fields
        self.body = body
        self.limit_bytes = limit_bytes
        self.begun_ns = self.progress_ns = begun_ns
        self.send_window = self.receive_window = 0
        self.owed_bytes = self.received_bytes = self.kept_bytes = self.held_bytes = 0
        self.rate_from_ns = self.rate_from_bytes = 0
        self.ask_bytes = LARGE_BODY_BYTES
        self.remote_open = True
        self.answered = self.ends = False
        self.announced_bytes: int | None = None
        self.wide_bytes: int | None = None
        self.trailers: bytes | None = None
        self.outgoing: deque[Buffer] | None = None
        self.on_gone: Callable[[], None] | None = None
        self.sink: Sink | None = None
