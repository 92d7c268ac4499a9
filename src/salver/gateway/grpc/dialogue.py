"""A call whose messages come and go one by one, while its stream is open."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from salver.core.clock import Clock
from salver.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    ReadTimeout,
    SalverError,
    fault_of,
)
from salver.core.settings import Http2Settings, HttpSettings
from salver.gateway.grpc.framing import (
    Buffer,
    answer_encoding,
    inflated,
    timeout_ns,
    whole_message,
)
from salver.gateway.grpc.incoming import Incoming
from salver.gateway.grpc.status import HEAD, OK, compressed, failure, identity
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.stream import Stream
from salver.observe.logs import get_logger

log = get_logger(__name__)

# Others of the same loop get their turn after so many messages.
_MESSAGES_PER_TURN = 32
_JOIN_BYTES = 64 * 1024
_RATE_GRACE_S = 5.0


class Speaker(Protocol):
    """The side of a streaming call that knows what its messages mean."""

    def take(self, message: Buffer) -> None:
        """Take one message; raising ``SalverError`` ends the call with it."""
        ...

    def drain(self) -> None:
        """Answer what never ends by itself for the last time."""
        ...

    def leave(self) -> None:
        """Drop everything that is open; nobody waits for it."""
        ...


class Limits(NamedTuple):
    """What the calls of a front may cost, and the clock that it is measured with."""

    http: HttpSettings
    http2: Http2Settings
    clock: Clock


class Dialogue:
    """Sink of a stream that carries a streaming call.

    ``open_count`` says how many of its requests wait for their answers: ``opened`` and ``closed``
    count them. While there are too many, or the client does not read the answers of its connection,
    no message is taken, and the client may send no more than a window. The call ends when the
    client has said that it sends no more and everything is answered.

    No message may be longer than ``limit_bytes``, if that is given, nor than the settings allow.
    ``grpc-timeout`` is when the call ends at the latest, by the next look of the server's sweep.
    Making one raises ``InvalidRequest`` where that field is none.
    """

    def __init__(
        self,
        connection: Http2Connection,
        stream: Stream,
        request_id: str,
        limits: Limits,
        limit_bytes: int | None = None,
    ) -> None:
        self.connection = connection
        self.stream = stream
        self.request_id = request_id
        self.open_count = 0
        self.clock = limits.clock
        self._limits = limits
        sent_bytes, inflated_bytes = limits.http.max_body_bytes, limits.http.max_inflated_bytes
        if limit_bytes is not None:
            sent_bytes = min(sent_bytes, limit_bytes)
            inflated_bytes = min(inflated_bytes, limit_bytes)
        self._inflated_bytes = inflated_bytes
        self._incoming = Incoming(sent_bytes, connection.allocate)
        self._message_ns = stream.begun_ns
        timeout = stream.fields.get(b"grpc-timeout")
        self._limit_ns = None if timeout is None else timeout_ns(timeout)
        self._speaker: Speaker | None = None
        self._has_head = False
        self._is_due = False
        self._was_held = False
        self._drains = False
        self._has_dropped = False
        self._over = False

    def begin(self, speaker: Speaker) -> None:
        """Let a speaker have the messages."""
        self._speaker = speaker
        self.stream.sink = self
        self.stream.on_gone = self.gone

    # the stream's side

    def feed(self, data: bytes) -> None:
        """Take bytes; what comes after the end, or while draining, is dropped."""
        if self._over or (self._drains and data):
            self._has_dropped = True
            self.connection.consumed(self.stream, len(data), len(data))
            return
        if not self._incoming.is_midway:
            self._message_ns = self.clock.monotonic_ns()
        self._incoming.add(data)
        if not self._is_due:
            self._take()

    def end(self) -> None:
        """The client sends no more; the call ends when everything is answered."""
        if not self._is_due:
            self._take()

    def sent(self) -> None:
        """The client reads; go on if that is what was waited for."""
        self.stream.progress_ns = self.clock.monotonic_ns()
        if self._was_held:
            self._take_soon()

    def resume(self) -> None:
        """The client has read what other streams of the connection had for it."""
        self._message_ns = self.clock.monotonic_ns()
        if not self.stream.outgoing:
            self.stream.progress_ns = self._message_ns
        if self._was_held:
            self._take_soon()

    def drain(self) -> None:
        """Answer what has come, and then ask the client to go elsewhere."""
        self._drains = True
        if self._speaker is not None:
            self._speaker.drain()
        self._take_soon()

    def overdue(self, now_ns: int) -> SalverError | None:
        """Return why a call whose time is over, or whose client is too slow, must end."""
        http, incoming = self._limits.http, self._incoming
        if self._limit_ns is not None and now_ns - self.stream.begun_ns > self._limit_ns:
            return DeadlineExceeded("the call's grpc-timeout is over")
        still_s = (now_ns - self.stream.progress_ns) / 1e9
        is_due = incoming.is_midway and not incoming.has_bytes and self.stream.remote_open
        if is_due and not self.connection.is_behind():
            lasted_s = (now_ns - self._message_ns) / 1e9
            slow = http.min_body_rate_bytes_s * (lasted_s - _RATE_GRACE_S)
            if still_s > http.body_timeout_s or incoming.partial_bytes < slow:
                return ReadTimeout("a message did not arrive in time, or too slowly")
        if still_s > self._limits.http2.stream_idle_timeout_s:
            return ReadTimeout("the stream was silent for too long; open it again when needed")
        return None

    def gone(self) -> None:
        """The client gave up."""
        self._finish()

    # the speaker's side

    def opened(self) -> None:
        """Count a request that will be answered."""
        self.open_count += 1

    def closed(self) -> None:
        """Count a request that has its last answer, or needs none."""
        self.open_count -= 1
        if self._incoming.has_bytes or self._drains or not self.stream.remote_open:
            self._take_soon()

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send one message, in parts."""
        if self._over:
            return
        encoding = answer_encoding(self.stream.fields)
        whole = whole_message(parts, encoding)
        if sum([p.nbytes if isinstance(p, memoryview) else len(p) for p in whole]) <= _JOIN_BYTES:
            whole = [b"".join(whole)]
        block = None
        if not self._has_head:
            block = HEAD + identity(self.request_id) + compressed(encoding)
        self._has_head = True
        self.connection.send(self.stream, whole, block)

    def fail(self, error: SalverError) -> None:
        """End the call with an error; what is open is dropped."""
        self._end(failure(error))

    # inside

    def _must_wait(self) -> bool:
        """Tell whether too much is open, or unread, to begin with another message."""
        limits, had_waited = self._limits, self._was_held
        self._was_held = (
            self.open_count >= limits.http2.max_stream_requests or self.connection.is_behind()
        )
        if had_waited and not self._was_held:
            # The time in which we took nothing does not count against the client.
            self._message_ns = self.clock.monotonic_ns()
        return self._was_held

    def _take_soon(self) -> None:
        if not self._is_due and not self._over:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        """Hand over messages until there is none, or no more may be open."""
        self._is_due = False
        try:
            for _ in range(_MESSAGES_PER_TURN):
                if self._over or self._must_wait():
                    return
                if not self._take_one():
                    self._end_if_done()
                    return
            self._take_soon()
        except SalverError as error:
            self.fail(error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("call_failed", request_id=self.request_id)
            self.fail(fault_of(error))

    def _take_one(self) -> bool:
        """Hand over the next message; False if it is not there, or not all of it."""
        incoming, taken = self._incoming, self._incoming.taken_bytes
        begun = incoming.partial_bytes
        found = incoming.next()
        taken = incoming.taken_bytes - taken
        self.connection.consumed(self.stream, taken, 0 if found is None else begun + taken)
        if found is None or self._speaker is None:
            return False
        self._message_ns = self.clock.monotonic_ns()
        compressed, message = found
        fields, limit_bytes = self.stream.fields, self._inflated_bytes
        self._speaker.take(inflated(message, compressed, fields, limit_bytes))
        return True

    def _end_if_done(self) -> None:
        if self._over or self.open_count:
            return
        if self._drains and (self.stream.remote_open or self._has_dropped):
            raise NotReady("this gateway is going away; open the stream again", retry_after_s=0.0)
        if not self.stream.remote_open:
            if self._incoming.is_midway:
                raise InvalidRequest("the call ended within a message")
            self._end(OK)

    def _end(self, trailers: bytes) -> None:
        if self._over:
            return
        self._finish()
        if self._has_head:
            self.connection.end(self.stream, trailers)
        else:
            block = HEAD + identity(self.request_id) + trailers
            self.connection.answer(self.stream, block, ())

    def _finish(self) -> None:
        """Let go of what is held, and of what is open."""
        self._over = True
        self._incoming.clear()
        self.connection.consumed(self.stream, 0, self.stream.kept_bytes)
        if self._speaker is not None:
            self._speaker.leave()
