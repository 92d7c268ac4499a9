"""One link between two processes, after both have greeted.

What is sent during one turn of the event loop leaves as one write.
"""

import asyncio
import contextlib
import hmac
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from salver.core.errors import WireError
from salver.wire.framing import LARGE_BYTES, Allocate, Buffer, FrameReceiver, encode, size_of
from salver.wire.messages import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Hello,
    Message,
)

_GREETING_TIMEOUT_S: Final = 10.0
_LAST_WORDS_BYTES: Final = 256 * 1024
# With the system's usual 208 KiB the two ends of a link wait for each other a hundred times for
# a tensor of 20 MB.
_SEND_BUFFER_BYTES: Final = 1024 * 1024
_KEEP_IDLE_S: Final = 30
_KEEP_PAUSE_S: Final = 5
_KEEP_COUNT: Final = 4


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What a link may cost: largest payload, one write a turn or one a message, payload memory."""

    max_frame_bytes: int
    coalesce: bool = True
    allocate: Allocate = bytearray


class Receiver(Protocol):
    """Who gets what arrives on a link; neither method may raise."""

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take one message; the payload belongs to the receiver from now on."""
        ...

    def on_lost(self, error: WireError | None) -> None:
        """Take note that the link is gone; called once, also after ``close()``."""
        ...


class Connection(asyncio.BufferedProtocol):
    """A link. ``accept`` is called once the peer's Hello is in order and gives the receiver.

    ``initiator`` greets first; the other side answers. ``token`` must match on both sides.
    ``on_read_end``, which a receiver may set, is called when all that arrived was handed on.
    """

    def __init__(
        self,
        hello: Hello,
        accept: Callable[["Connection"], Receiver],
        *,
        initiator: bool,
        limits: LinkLimits,
    ) -> None:
        self._hello = hello
        self._accept = accept
        self._initiator = initiator
        self._coalesce = limits.coalesce
        self._max_bytes = limits.max_frame_bytes
        self._frames = FrameReceiver(limits.max_frame_bytes, limits.allocate)
        self._out: list[Buffer] = []
        self._large_out = False
        self._flush_due = False
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._greeting_timer: asyncio.TimerHandle | None = None
        self._error: WireError | None = None
        self._spare = -1
        self._blocked = False
        self._unblocked: list[Callable[[], None]] = []
        self.is_direct = True
        self.on_read_end: Callable[[], None] | None = None
        self.peer: Hello | None = None
        self.greeted: asyncio.Future[None] = self._loop.create_future()

    @property
    def buffered_bytes(self) -> int:
        """Bytes accepted for sending that the socket has not taken yet."""
        waiting = size_of(self._out)
        return waiting + (self._transport.get_write_buffer_size() if self._transport else 0)

    @property
    def begun_bytes(self) -> int:
        """Bytes that came of a message of which more is to come."""
        return self._frames.begun_bytes

    @property
    def is_open(self) -> bool:
        """Tell whether messages may still get through."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_blocked(self) -> bool:
        """Tell whether the socket refused a part of what was flushed: the peer does not read."""
        return self._blocked

    def when_unblocked(self, callback: Callable[[], None]) -> None:
        """Call back once, when the socket has taken everything or the link is lost."""
        if self.is_direct or self._blocked or not self.is_open:
            self._unblocked.append(callback)
        else:
            # By the loop's next turn the encrypted bytes were handed to the socket.
            self._loop.call_soon(callback)

    def send(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Send a message and its payload with all others of this turn of the loop.

        As ``queue``, whose errors it raises, but nobody needs to call ``flush``.
        """
        self.queue(message, buffers)
        self._flush_soon()

    def send_frame(self, frame: bytes) -> None:
        """Send what ``encode`` made of a message without payload; many links may share it."""
        self._out.append(frame)
        if not self._coalesce:
            self.flush()
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._coalesce and not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def queue(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Queue a message and its payload for ``flush``; lost when the link is closing.

        Buffers over 64 KiB are not copied and must not change until they are sent. Raises
        ``WireError`` for a message that the peer could not take; nothing is queued then.
        """
        size = size_of(buffers) if buffers else 0
        if size > self._max_bytes:
            raise WireError(
                f"a message of {size} bytes is over the limit of {self._max_bytes}; raise "
                "engine.max_frame_bytes if tensors of that size are meant"
            )
        self._out.append(encode(message, size))
        if buffers:
            self._out.extend(buffers)
            if size >= LARGE_BYTES:
                self._large_out = True
        if not self._coalesce:
            self.flush()

    def flush(self) -> None:
        """Write everything queued now instead of at the end of the loop's turn.

        When it returns the bytes are with the kernel, unless ``is_blocked``, or the link is
        encrypted and not ``is_direct``: then a turn of the loop lies between.
        """
        self._flush_due = False
        out, transport = self._out, self._transport
        if not out:
            return
        self._out = []
        if transport is None or transport.is_closing():
            return
        if self._large_out:
            self._large_out = False
            transport.writelines(out)
        else:
            transport.write(b"".join(out))

    def close(self) -> None:
        """Send what is queued and close; the receiver's ``on_lost`` follows."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self, error: WireError) -> None:
        """Close at once; the receiver learns why."""
        self._error = error
        if self._transport is not None:
            self._transport.abort()

    def drop(self) -> None:
        """Let go of a link that never was one; nobody is told. Harmless when repeated."""
        if self._greeting_timer is not None:
            self._greeting_timer.cancel()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._close_spare()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, or wait for the greeting."""
        self._transport = cast(asyncio.Transport, transport)
        self.is_direct = transport.get_extra_info("sslcontext") is None
        if self.is_direct:
            # Any byte left over blocks, so that nobody mistakes a queued message for a sent one.
            self._transport.set_write_buffer_limits(high=0)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family == socket.AF_UNIX:
            self._spare = os.dup(raw.fileno())
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        elif raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            _keep_alive(raw)
        self._greeting_timer = self._loop.call_later(
            _GREETING_TIMEOUT_S, self.abort, WireError("the peer did not greet in time")
        )
        if self._initiator:
            self.send(self._hello)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        del sizehint
        return self._frames.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on the messages that are complete."""
        try:
            messages = self._frames.received(nbytes)
            receiver = self._receiver
            if receiver is None and messages:
                receiver = self._greet(messages[0][0])
                messages = self._frames.trust()
        except WireError as error:
            self.abort(error)
            return
        if receiver is not None:
            on_message = receiver.on_message
            for message, payload in messages:
                on_message(message, payload)
            if self.on_read_end is not None:
                self.on_read_end()

    def pause_writing(self) -> None:
        """Note that the socket is full."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Note that the socket has taken everything."""
        self._blocked = False
        callbacks, self._unblocked = self._unblocked, []
        for callback in callbacks:
            callback()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the receiver, or whoever waits for the greeting."""
        if self._greeting_timer is not None:
            self._greeting_timer.cancel()
        try:
            if exc is not None and self._error is None:
                self._hear_last_words()
        except Exception as fault:  # whoever waits on this link must be told in any case
            self._error = WireError(f"the link broke: {exc}")
            self._loop.call_exception_handler(
                {"message": "the last words of a link failed", "exception": fault}
            )
        finally:
            self._close_spare()
        error = self._error
        if error is None and exc is not None:
            error = WireError(f"the link broke: {exc}")
        if not self.greeted.done():
            self.greeted.set_exception(error or WireError("the peer closed before it greeted"))
            # Nobody may be waiting for a greeting on the accepting side.
            self.greeted.exception()
        if self._receiver is not None:
            self._receiver.on_lost(error)
        self.resume_writing()

    def _close_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _hear_last_words(self) -> None:
        """Read what a dead peer had sent, which the transport drops when a write to it fails.

        Whether a request was running when a worker died is known from its last message only.
        """
        if self._spare < 0 or self._receiver is None:
            return
        with contextlib.suppress(OSError):
            while self._error is None:
                room = self._frames.buffer()[:_LAST_WORDS_BYTES]
                count = os.readv(self._spare, [room])
                if not count:
                    break
                self.buffer_updated(count)

    def _greet(self, message: Message) -> Receiver:
        problem = _problem(message, self._hello.token)
        if problem:
            raise WireError(problem)
        self.peer = cast(Hello, message)
        if self._greeting_timer is not None:
            self._greeting_timer.cancel()
        if not self._initiator:
            self.send(self._hello)
        self._receiver = self._accept(self)
        self.greeted.set_result(None)
        return self._receiver


def _keep_alive(raw: socket.socket) -> None:
    """Have the kernel find out within a minute that an idle link leads nowhere any more."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_IDLE_S)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_PAUSE_S)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEP_COUNT)


def _problem(message: Message, token: str) -> str:
    if not isinstance(message, Hello):
        return f"the first message was {type(message).__name__}, not Hello"
    if not OLDEST_PROTOCOL_VERSION <= message.version <= PROTOCOL_VERSION + 1:
        return (
            f"{message.role} {message.identity} speaks version {message.version} of the protocol, "
            f"this process {OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION + 1}; update the older"
        )
    if not hmac.compare_digest(message.token.encode(), token.encode()):
        return f"{message.role} {message.identity} sent a wrong token"
    return ""
