"""Requests of a client that does not read wait, in whatever order it opens and completes them."""

import numpy as np
import pytest

from salver.core.clock import ManualClock
from salver.core.settings import Http2Settings, HttpSettings
from salver.gateway.h2 import frames as f
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.headers import status
from salver.gateway.h2.stream import Stream
from tests.gateway.grpc.calls import infer_request
from tests.gateway.grpc.test_streams import CALL, MODEL, packed
from tests.gateway.h2.inmemory import BLOCK, Application, Owner, Transport, frames_of
from tests.gateway.h2.wire import Wire
from tests.gateway.inprocess import RunningServer

LIMIT_BYTES = 100_000
ANSWER = bytes(30_000)
# What is held when the limit is passed.
ASKED = LIMIT_BYTES // len(ANSWER) + 1
COUNT = 20
CLOSED = f.settings_frame({f.INITIAL_WINDOW_SIZE: 0})
NUMBERS = list(range(1, 2 * COUNT, 2))


class Long(Application):
    """Answers every complete request at length."""

    def complete(self, connection: Http2Connection, stream: Stream) -> None:
        """Answer."""
        self.complete_streams.append(stream.id)
        connection.answer(stream, status(200), (ANSWER,))


class Socket(Transport):
    """Transport of a plain socket that takes everything."""

    def get_extra_info(self, name: str) -> None:
        """It has no TLS."""


class Client:
    """A client that opens ``COUNT`` streams first, and no window for their answers."""

    def __init__(self, limits: Http2Settings | None = None) -> None:
        self.clock, owner = ManualClock(), Owner()
        owner.clock = self.clock
        owner.settings = HttpSettings(max_body_bytes=100_000, write_buffer_bytes=LIMIT_BYTES)
        self.application, self._transport = Long(), Socket()
        self.connection = Http2Connection(owner, limits or Http2Settings(), self.application)
        # Written when a test asks, not at the end of a turn of a loop.
        self.connection.output._is_due = True
        self.connection.connection_made(self._transport)  # type: ignore[arg-type]
        opened = [f.frame(f.HEADERS, f.END_HEADERS, number, BLOCK) for number in NUMBERS]
        self.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + CLOSED + b"".join(opened))

    @property
    def asked(self) -> list[int]:
        """The streams whose requests have reached the application."""
        return self.application.complete_streams

    def say(self, data: bytes) -> list[tuple[int, int]]:
        """Say something; returns kinds and streams of what came back."""
        self.connection.data_received(data)
        return self.hear()

    def hear(self) -> list[tuple[int, int]]:
        """Return kinds and streams of the frames that came since the last time."""
        self.connection.output.flush()
        self.connection.output._is_due = True
        written, self._transport.written = self._transport.written, b""
        return [(frame.kind, frame.stream) for frame in frames_of(written)]

    def complete(self, body: bytes = b"{}") -> None:
        """Complete all requests, one read for each."""
        for number in NUMBERS:
            self.say(f.frame(f.DATA, f.END_STREAM, number, body))


@pytest.mark.parametrize("is_one_read", [False, True])
def test_streams_opened_first_wait(is_one_read: bool) -> None:
    """What is completed later is not asked while too much is unread; other frames have effect."""
    client = Client()
    if is_one_read:
        client.say(b"".join(f.frame(f.DATA, f.END_STREAM, n, b"{}") for n in NUMBERS))
    else:
        client.complete()
    assert client.asked == NUMBERS[:ASKED]
    assert client.connection.output.held_bytes == ASKED * len(ANSWER)
    assert client.say(f.frame(f.PING, 0, 0, bytes(8))) == [(f.PING, 0)]
    assert client.say(CLOSED) == [(f.SETTINGS, 0)]


def test_a_slow_reader_gets_everything() -> None:
    """What waits goes on in its order, as far as the client reads, and all is answered."""
    client = Client()
    client.complete()
    client.say(f.window_update(0, 2**30))
    ended = 0
    while ended < COUNT:
        number = NUMBERS[ended]
        assert (f.DATA, number) in client.say(f.window_update(number, len(ANSWER)))
        ended += 1
        assert client.asked == NUMBERS[: min(COUNT, ended + ASKED)]
        assert client.connection.output.held_bytes <= LIMIT_BYTES + len(ANSWER)
    assert not client.connection._streams
    assert client.connection._windows.unfinished_bytes == 0


def test_giving_up_makes_room() -> None:
    """RST_STREAM of an unread answer lets the next in; a request that waits is forgotten by it."""
    client = Client()
    client.complete(bytes(1000))
    assert client.connection.unread(0).size_bytes == ASKED * len(ANSWER) + 1000 * (COUNT - ASKED)
    client.say(f.rst_stream(NUMBERS[ASKED], f.CANCEL))
    assert client.connection._windows.unfinished_bytes == 1000 * (COUNT - ASKED - 1)
    client.say(f.rst_stream(1, f.CANCEL))
    assert client.asked == [*NUMBERS[:ASKED], NUMBERS[ASKED + 1]]


def test_no_window_is_given_back_meanwhile() -> None:
    """A client may send ahead no more than it could, and has all of it again once it has read."""
    client = Client(Http2Settings(stream_window_bytes=20_000, connection_window_bytes=65_535))
    for number in NUMBERS[:ASKED]:
        client.say(f.frame(f.DATA, f.END_STREAM, number, b"{}"))
    last = NUMBERS[-1]
    for number in NUMBERS[ASKED : ASKED + 3]:
        heard = client.say(f.frame(f.DATA, f.END_STREAM, number, bytes(15_000)))
        assert (f.WINDOW_UPDATE, 0) not in heard
    assert client.say(f.frame(f.DATA, 0, last, bytes(12_000))) == []
    heard = client.say(f.window_update(0, 2**30))
    for number in NUMBERS[: ASKED + 3]:
        heard += client.say(f.window_update(number, len(ANSWER)))
    assert {(f.WINDOW_UPDATE, 0), (f.WINDOW_UPDATE, last)} <= set(heard)


def test_who_never_reads_is_given_up() -> None:
    """Answers are dropped after the body's time, and what waited goes on.

    A body that could not go on is not late.
    """
    client = Client()
    client.say(f.frame(f.DATA, 0, NUMBERS[-1], b"{"))
    for number in NUMBERS[: ASKED + 1]:
        client.say(f.frame(f.DATA, f.END_STREAM, number, b"{}"))
    client.clock.advance(61.0)
    client.connection.expire(client.clock.monotonic_ns())
    resets = [stream for kind, stream in client.hear() if kind == f.RST_STREAM]
    assert resets == NUMBERS[:ASKED]
    assert client.asked == NUMBERS[: ASKED + 1]


def test_a_connection_that_ends_asks_nothing_more() -> None:
    """What waited for a client that left is dropped."""
    client = Client()
    client.complete()
    client.connection.connection_lost(None)
    assert client.asked == NUMBERS[:ASKED]
    assert client.connection.unread(0).size_bytes == 0
    assert not client.connection._streams


def test_streams_of_messages_wait_for_each_other() -> None:
    """Answers that one leaves unread hold all of a connection back, until they are read."""
    settings = HttpSettings(write_buffer_bytes=50_000)
    large, small = (
        packed(infer_request(MODEL, {"x": np.zeros((1, width), np.float32)}))
        for width in (20_000, 2)
    )
    with RunningServer(settings) as server, Wire(server.port) as wire:
        wire.send(CLOSED)
        wire.send(wire.headers(1, CALL, ends=False) + wire.headers(3, CALL, ends=False))
        for start in range(0, len(large), 16_000):
            wire.send(f.frame(f.DATA, 0, 1, large[start : start + 16_000]))
        wire.until(f.HEADERS, 1)
        wire.send(f.frame(f.DATA, f.END_STREAM, 3, small) + f.frame(f.PING, 0, 0, bytes(8)))
        wire.until(f.PING)
        assert len(server.computer.contexts) == 1
        wire.send(f.window_update(3, 2**20) + f.window_update(1, 2**20) + f.window_update(0, 2**20))
        assert wire.answer(3)[2]["grpc-status"] == "0"
