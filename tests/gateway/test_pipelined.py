"""Many requests in one read: no more of them are asked at once than the settings allow."""

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import pytest

from salver.core.clock import ManualClock
from salver.core.settings import Http2Settings, HttpSettings
from salver.gateway.h2 import frames as f
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.headers import status
from salver.gateway.h2.stream import Stream
from salver.gateway.http.connection import HttpConnection
from salver.gateway.http.message import HttpMessage
from salver.gateway.http.prelude import PREFACE
from salver.gateway.http.server import HttpServer
from tests.gateway.h2.inmemory import BLOCK, Application, Owner, Transport
from tests.gateway.inprocess import RunningServer, exchange_bytes, post

P = ParamSpec("P")
GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
AT_ONCE = 64
# What may be parsed before anyone looks how many there are.
AHEAD = AT_ONCE + 2048 // len(GET) + 1
ANSWER = b"x" * 100_000


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Slow(Transport):
    """Transport whose client takes nothing until ``drain`` is called."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol: Any = protocol
        self.size, self.reading, self.paused = 0, True, False
        self.most, self.limit, self.ended = 0, 1 << 20, False

    def write(self, data: bytes) -> None:
        """Keep only how much waits."""
        self.size += len(data)
        self.most = max(self.most, self.size)
        if self.size > self.limit and not self.paused:
            self.paused = True
            self.protocol.pause_writing()

    def writelines(self, parts: list[bytes]) -> None:
        """Keep only how much waits."""
        self.write(b"".join(parts))

    def set_write_buffer_limits(self, high: int) -> None:
        """Take over the limit."""
        self.limit = high

    def drain(self) -> None:
        """Take everything."""
        self.size = 0
        if self.paused:
            self.paused = False
            self.protocol.resume_writing()

    def set_protocol(self, protocol: Any) -> None:
        """Let another have what comes."""
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        """Return how much waits."""
        return self.size

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """Take note."""
        self.ended = True

    def get_extra_info(self, name: str) -> None:
        """Nothing is known."""

    def abort(self) -> None:
        """Take note."""
        self.closed = True

    def pause_reading(self) -> None:
        """Read no more."""
        assert self.reading, "reading was paused already"
        self.reading = False

    def resume_reading(self) -> None:
        """Read again."""
        assert not self.reading, "reading was not paused"
        self.reading = True


def connection(messages: list[HttpMessage]) -> tuple[HttpConnection, Slow]:
    """Return a connection whose requests nobody answers."""
    settings = HttpSettings(max_pipelined=AT_ONCE, write_buffer_bytes=1 << 20)
    made = HttpConnection(HttpServer(settings, ManualClock(), messages.append))
    transport = Slow(made)
    made.connection_made(transport)  # type: ignore[arg-type]
    return made, transport


@in_loop
async def test_one_read_of_thousands_asks_no_more_than_the_limit() -> None:
    """The rest of the read waits, is asked as answers leave, in its order, and none is lost.

    Nothing is asked in the middle of an answer, whose maker may not be done with its work.
    """
    messages: list[HttpMessage] = []
    made, transport = connection(messages)
    made.data_received(b"".join(GET % number for number in range(3000)))
    assert AT_ONCE <= len(messages) <= AHEAD
    assert not transport.reading
    done = 0
    while done < len(messages):
        asked = len(messages)
        messages[done].respond(200, (b"{}",))
        assert len(messages) == asked
        done += 1
        await asyncio.sleep(0)
        assert len(messages) - done <= AHEAD
    assert [message.target for message in messages] == [b"/%d" % n for n in range(3000)]
    assert transport.reading


@in_loop
async def test_answers_at_once_wait_for_a_client_that_does_not_read() -> None:
    """Requests that are answered as they are asked stop with the buffer of answers full."""
    settings = HttpSettings(write_buffer_bytes=1 << 20)
    made = HttpConnection(HttpServer(settings, ManualClock(), _tell))
    transport = Slow(made)
    made.connection_made(transport)  # type: ignore[arg-type]
    made.data_received(GET % 7 * 3000)
    assert transport.most <= (1 << 20) + (2048 // len(GET) + 1) * (len(ANSWER) + 200)
    drained = 0
    while transport.size:
        drained += transport.size
        transport.drain()
        await asyncio.sleep(0)
    assert drained > 3000 * len(ANSWER)
    assert transport.reading


@in_loop
async def test_a_refusal_in_the_middle_of_many_requests_ends_the_connection() -> None:
    """Reading goes on until the client has had its time, and then the connection is closed."""
    messages: list[HttpMessage] = []
    made, transport = connection(messages)
    made.data_received(GET % 1 * AT_ONCE + b"garbage\r\n\r\n" + GET % 2 * 10)
    for message in messages:
        message.respond(200, (b"{}",))
        await asyncio.sleep(0)
    assert transport.reading
    transport.drain()
    for second in range(1, 5):
        made.expire(second * 1_000_000_000 + 1)
    assert transport.closed


@in_loop
async def test_nothing_is_asked_after_the_end_of_a_connection() -> None:
    """What follows a request that closes is not looked at any more."""
    messages: list[HttpMessage] = []
    made, transport = connection(messages)
    last = (GET % 7).replace(b"Host", b"Connection: close\r\nHost", 1)
    made.data_received(GET % 1 * 70 + last + GET % 2 * 1000)
    done = 0
    while done < len(messages):
        messages[done].respond(200, (b"{}",))
        done += 1
        await asyncio.sleep(0)
    assert transport.closed or transport.ended
    assert [message.target for message in messages] == [b"/1"] * 70 + [b"/7"]


@pytest.mark.parametrize("size", [100, 3000, 70_000])
@pytest.mark.parametrize("then", [b"", b"GARBAGE\r\n\r\n"])
@in_loop
async def test_what_follows_a_request_that_closes_is_never_asked(size: int, then: bytes) -> None:
    """Also behind a large body, and when it comes later: its answer would have no place."""
    messages: list[HttpMessage] = []
    made, transport = connection(messages)
    data = post("/a", b"x" * size, close=True)
    made.data_received(data[:-size])
    protocol = transport.protocol
    if isinstance(protocol, asyncio.BufferedProtocol):
        memoryview(protocol.get_buffer(-1))[:size] = data[-size:]
        protocol.buffer_updated(size)
    else:
        made.data_received(data[-size:])
    made.data_received(GET % 1 + then)
    assert [message.target for message in messages] == [b"/a"]
    messages[0].respond(200, (b"{}",))
    assert transport.ended, "a client that still sends should read its answer first"


@in_loop
async def test_answers_that_nobody_waits_for_are_forgotten() -> None:
    """The requests behind a refusal's place in the queue are told that their client is gone."""
    messages: list[HttpMessage] = []
    gone: list[HttpMessage] = []
    made, transport = connection(messages)
    made.data_received(GET % 1 + GET % 2)
    messages[1].on_gone = gone.append
    messages[0].close = True
    messages[0].respond(200, (b"{}",))
    assert gone == [messages[1]]
    before = transport.size
    messages[1].respond(200, (b"{}",))
    assert transport.size == before


@in_loop
async def test_a_slow_reader_gets_its_answer_before_a_refused_connection_ends() -> None:
    """The time to read why begins when everything has left."""
    messages: list[HttpMessage] = []
    made, transport = connection(messages)
    made.data_received(GET % 1 + b"GARBAGE\r\n\r\n")
    messages[0].respond(200, (b"x" * 5_000_000,))
    for second in range(10):
        made.expire(second * 1_000_000_000 + 1)
        transport.size -= 1000
    assert not transport.closed
    transport.drain()
    for second in range(10, 14):
        made.expire(second * 1_000_000_000 + 1)
    assert transport.closed


@pytest.mark.parametrize("ahead", [0, 64])
@pytest.mark.parametrize("size", [3000, 70_000])
@in_loop
async def test_the_body_behind_an_offer_to_upgrade_is_no_request(ahead: int, size: int) -> None:
    """Whatever it holds, wherever a read is cut."""
    inner = b"POST /smuggled HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nok"
    body = b"x" * size + b"\r\n\r\n" + inner
    offer = post("/offer", body, "Connection: Upgrade", "Upgrade: h2c", close=False)
    messages: list[HttpMessage] = []
    made, _ = connection(messages)
    made.data_received(GET % 1 * ahead + offer + GET % 2)
    done = 0
    while done < len(messages):
        messages[done].respond(200, (b"{}",))
        done += 1
        await asyncio.sleep(0)
    assert [bytes(message.target) for message in messages] == [b"/1"] * ahead + [b"/offer", b"/2"]
    assert bytes(messages[ahead].body) == body


def _tell(message: HttpMessage) -> None:
    message.respond(200, (ANSWER,))


@pytest.mark.parametrize("size", [3000, 60_000, 200_000])
@in_loop
async def test_bodies_among_many_requests(size: int) -> None:
    """Whole bodies come through between requests without any, whatever is in them."""
    body = (b"\r\n\r\n" + random.Random(size).randbytes(97)) * (size // 101)
    one = post("/body", body, close=False)
    messages: list[HttpMessage] = []
    made, _ = connection(messages)
    data = (GET % 1 * 200 + one) * 3
    made.data_received(data)
    done = 0
    while done < len(messages):
        messages[done].respond(200, (b"{}",))
        done += 1
        await asyncio.sleep(0)
    assert [len(message.body) for message in messages] == ([0] * 200 + [len(body)]) * 3
    assert all(bytes(message.body) in (b"", body) for message in messages)


def test_a_large_body_goes_on_behind_many_requests() -> None:
    """One whose beginning waited with the rest of a read takes what comes later as well."""
    body = b"z" * 300_000
    with RunningServer(HttpSettings(max_pipelined=4)) as server:
        live = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
        server.computer.hold = True
        held = post("/v2/models/identity-fp32/infer", _row(), close=False)
        data = held * 20 + post("/v2/models/nowhere/infer", body, close=False) + live * 500
        data += b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        server.begin(_release(server))
        answers = exchange_all(server.port, data)
    assert answers.count(b"HTTP/1.1 200") == 20 + 501
    assert answers.count(b"HTTP/1.1 404") == 1


def _row() -> bytes:
    return b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [3]}]}'


async def _release(server: RunningServer) -> None:
    for _ in range(2000):
        await asyncio.sleep(0.005)
        server.release()


def exchange_all(port: int, data: bytes) -> bytes:
    """Return all answers to what was sent; the last request closes."""
    return exchange_bytes(port, data, timeout_s=30)


class Documents(Application):
    """Answers every request at once with a long document."""

    def complete(self, connection: Http2Connection, stream: Stream) -> None:
        """Answer."""
        self.complete_streams.append(stream.id)
        connection.answer(stream, status(200), (ANSWER,))


def test_streams_answered_at_once_wait_for_a_client_that_does_not_read() -> None:
    """Over HTTP/2, the frames of one read wait once the buffer of answers is full."""
    asyncio.run(_ask_for_documents())


async def _ask_for_documents() -> None:
    application, owner = Documents(), Owner()
    owner.settings = HttpSettings(write_buffer_bytes=1 << 20)
    made = Http2Connection(owner, Http2Settings(), application)
    transport = Slow(made)
    made.connection_made(transport)  # type: ignore[arg-type]
    most = (1 << 31) - 1
    begun = PREFACE + f.settings_frame({f.INITIAL_WINDOW_SIZE: most})
    begun += f.window_update(0, most - f.DEFAULT_WINDOW)
    whole = f.END_HEADERS | f.END_STREAM
    numbers = range(1, 2001, 2)
    made.data_received(begun + b"".join(f.frame(f.HEADERS, whole, n, BLOCK) for n in numbers))
    assert transport.most <= (1 << 20) + 2 * (len(ANSWER) + 1000)
    assert len(application.complete_streams) <= 2 + (1 << 20) // len(ANSWER)
    drained = 0
    while transport.size:
        drained += transport.size
        transport.drain()
        await asyncio.sleep(0)
    assert application.complete_streams == list(numbers)
    assert drained > len(numbers) * len(ANSWER)
    assert transport.reading


@pytest.mark.parametrize("made_before", [False, True])
@in_loop
async def test_while_draining_no_answer_follows_the_last(made_before: bool) -> None:
    """Whoever was told that an answer is the last is not asked for more; nobody else is cut off."""
    messages: list[HttpMessage] = []
    server = HttpServer(HttpSettings(), ManualClock(), messages.append)
    made = HttpConnection(server)
    transport = Slow(made)
    made.connection_made(transport)  # type: ignore[arg-type]
    made.data_received(GET % 1 + GET % 2)
    if made_before:
        messages[1].respond(200, (b"two",))
    server.draining = True
    made.begin_drain()
    if not made_before:
        messages[1].respond(200, (b"two",))
    made.data_received(GET % 3)
    asked = [message.target for message in messages]
    assert asked == [b"/1", b"/2", b"/3"][: 3 if made_before else 2]
    messages[0].respond(200, (b"one",))
    if made_before:
        assert not transport.closed
        messages[2].respond(200, (b"three",))
    assert transport.closed or transport.ended
