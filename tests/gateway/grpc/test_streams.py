"""Streams of inferences, asked by the real gRPC library and by raw frames."""

import contextlib
import hashlib
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salver.core.settings import Http2Settings, HttpSettings
from salver.gateway.grpc.framing import PREFIX, framed
from salver.gateway.grpc.incoming import Incoming
from salver.gateway.grpc.schema import message_class
from salver.gateway.h2 import frames as f
from tests.gateway.grpc.calls import SERVICE, infer_request, message, outputs_of, two_rows
from tests.gateway.grpc.test_calls import serving
from tests.gateway.h2.wire import Wire
from tests.gateway.inprocess import RunningServer, until

PATH = f"/{SERVICE}/ModelStreamInfer"
MODEL = "identity-fp32"
CALL = {
    b":method": b"POST",
    b":scheme": b"http",
    b":authority": b"test",
    b":path": PATH.encode(),
    b"content-type": b"application/grpc",
    b"te": b"trailers",
}
RESPONSE = message_class("inference.ModelStreamInferResponse")


class Talk:
    """One open stream of the real gRPC library; requests leave when ``say`` is called."""

    def __init__(self, channel: grpc.Channel, **options: Any) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.call = channel.stream_stream(
            PATH,
            request_serializer=lambda sent: sent.SerializeToString(),
            response_deserializer=RESPONSE.FromString,
        )(iter(self._requests.get, None), timeout=options.pop("timeout", 30), **options)

    def say(self, *requests: Any) -> None:
        """Send requests."""
        for request in requests:
            self._requests.put(request)

    def end(self) -> None:
        """Send no more."""
        self._requests.put(None)

    def hear(self) -> Any:
        """Return the next response."""
        return next(self.call)

    def status(self) -> grpc.StatusCode:
        """Return how the call ended, which it must have done after what was heard."""
        with contextlib.suppress(grpc.RpcError):
            assert list(self.call) == []
        return self.call.code()


@pytest.fixture
def talk(channel: grpc.Channel) -> Iterator[Talk]:
    """Give an open stream."""
    opened = Talk(channel)
    yield opened
    opened.end()


def asking(value: float, **fields: Any) -> Any:
    """Return a request of one row, whose id is its value."""
    return infer_request(MODEL, {"x": two_rows([value])}, id=str(value), **fields)


def value_of(response: Any) -> float:
    """Return the one value of an answer; the id must be that of its request."""
    assert response.error_message == ""
    value = float(outputs_of(response.infer_response)["y"][0, 0])
    assert response.infer_response.id == str(value)
    return value


def test_many_requests_on_one_stream(talk: Talk) -> None:
    """Each is answered once, with its own id and values, and the call ends well."""
    values = [float(n) for n in range(500)]
    talk.say(*[asking(value) for value in values])
    assert [value_of(talk.hear()) for _ in values] == values
    talk.end()
    assert talk.status() == grpc.StatusCode.OK


def test_a_stream_without_requests(talk: Talk) -> None:
    """It ends well and says nothing."""
    talk.end()
    assert talk.status() == grpc.StatusCode.OK


def test_answers_come_as_they_are_ready() -> None:
    """One that waits does not keep others waiting, and the end waits for it."""
    with serving() as (server, channel):
        talk = Talk(channel)
        server.computer.hold = True
        talk.say(asking(1.0))
        until(lambda: len(server.computer.waiting) == 1)
        server.computer.hold = False
        talk.say(asking(2.0))
        talk.end()
        assert value_of(talk.hear()) == 2.0
        server.release()
        assert value_of(talk.hear()) == 1.0
        assert talk.status() == grpc.StatusCode.OK


def test_what_is_wrong_with_one_leaves_the_others(talk: Talk) -> None:
    """Its answer carries the error and its id, and those around it are answered."""
    unknown = infer_request("none", {"x": two_rows([1])}, id="lost")
    failing = asking(3.0)
    failing.parameters["fail"].bool_param = True
    empty = message("ModelInferRequest", model_name=MODEL, id="empty")
    talk.say(asking(1.0), unknown, failing, empty, asking(2.0))
    assert value_of(talk.hear()) == 1.0
    for code, caller_id in (
        ("endpoint_not_found", "lost"),
        ("model_failed", "3.0"),
        ("invalid_request", "empty"),
    ):
        response = talk.hear()
        assert response.error_message.endswith(f"[{code}]")
        assert response.infer_response.id == caller_id
        assert not response.infer_response.outputs
    assert value_of(talk.hear()) == 2.0
    talk.end()
    assert talk.status() == grpc.StatusCode.OK


def test_typed_contents(talk: Talk) -> None:
    """A request with typed contents is answered with them."""
    talk.say(infer_request(MODEL, {"x": two_rows([5])}, raw=False))
    (output,) = talk.hear().infer_response.outputs
    assert list(output.contents.fp32_contents) == [5.0]


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages(channel: grpc.Channel, algorithm: grpc.Compression) -> None:
    """Each message of a stream may be compressed."""
    talk = Talk(channel, compression=algorithm)
    rows = np.zeros((1, 5000), np.float32)
    talk.say(infer_request(MODEL, {"x": rows}), asking(1.0))
    assert outputs_of(talk.hear().infer_response)["y"].shape == (1, 5000)
    assert value_of(talk.hear()) == 1.0
    talk.end()


def test_large_messages(talk: Talk) -> None:
    """Messages larger than any window pass in both directions, and small ones between them."""
    array = np.random.default_rng(1).random((1, 2_000_000), np.float32)
    talk.say(infer_request(MODEL, {"x": array}), asking(1.0), infer_request(MODEL, {"x": array}))
    large = talk.hear()
    assert np.array_equal(outputs_of(large.infer_response)["y"], array)
    assert value_of(talk.hear()) == 1.0
    assert np.array_equal(outputs_of(talk.hear().infer_response)["y"], array)
    talk.end()
    assert talk.status() == grpc.StatusCode.OK


def test_windows_open_again_for_ever() -> None:
    """Many times what a connection may keep unfinished passes on one stream."""
    limits = HttpSettings(max_body_bytes=100_000)
    http2 = Http2Settings(stream_window_bytes=65_535, connection_window_bytes=65_535)
    with serving(settings=limits, http2=http2) as (_, channel):
        talk = Talk(channel)
        request = infer_request(MODEL, {"x": np.zeros((1, 20_000), np.float32)})
        talk.say(*[request] * 50)
        for _ in range(50):
            assert not talk.hear().error_message
        talk.end()
        assert talk.status() == grpc.StatusCode.OK


def chunked(widths: str, *, wants_final: bool) -> Any:
    """Return a request that the model answers in chunks."""
    request = asking(1.0)
    request.parameters["chunks"].string_param = widths
    if wants_final:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


def test_chunks_come_one_by_one(talk: Talk) -> None:
    """A model that answers in chunks does so here, and each carries the request's id."""
    talk.say(chunked("1,2,3", wants_final=False), asking(2.0))
    for width in (1, 2, 3):
        response = talk.hear().infer_response
        assert outputs_of(response)["y"].shape == (1, width)
        assert response.id == "1.0"
        assert not response.parameters
    assert value_of(talk.hear()) == 2.0
    talk.end()
    assert talk.status() == grpc.StatusCode.OK


def test_the_last_answer_is_marked_when_asked_for(talk: Talk) -> None:
    """Every answer says whether it is the last, and an empty one ends the chunks."""
    failing = chunked("1", wants_final=True)
    failing.inputs[0].name = "z"
    single = asking(2.0)
    single.parameters["triton_enable_empty_final_response"].bool_param = True
    talk.say(chunked("1,2", wants_final=True), single, failing)
    marks = []
    for _ in range(5):
        response = talk.hear()
        mark = response.infer_response.parameters["triton_final_response"].bool_param
        marks.append((len(response.infer_response.outputs), mark))
    assert marks == [(1, False), (1, False), (0, True), (1, True), (0, True)]


def test_cancelling_reaches_the_work() -> None:
    """All that is open on a stream is cancelled with it, and its places are free again."""
    with serving() as (server, channel):
        server.computer.hold = True
        talk = Talk(channel)
        talk.say(*[asking(float(n)) for n in range(5)])
        until(lambda: len(server.computer.contexts) == 5)
        talk.call.cancel()
        until(lambda: all(context.cancelled for context in server.computer.contexts))
        until(lambda: server.inference.open_count == 0)
        assert server.computer.contexts[0].principal.in_flight == 0
        # What was held answers into the void.
        server.release()
        server.computer.hold = False
        again = Talk(channel)
        again.say(asking(7.0))
        assert value_of(again.hear()) == 7.0
        again.end()


def test_few_are_open_at_once() -> None:
    """Requests over the bound wait their turn; none is lost and none is refused."""
    with serving(http2=Http2Settings(max_stream_requests=4)) as (server, channel):
        server.computer.hold = True
        talk = Talk(channel)
        talk.say(*[asking(float(n)) for n in range(40)])
        talk.end()
        until(lambda: len(server.computer.contexts) == 4)
        answers: list[float] = []
        counts: list[int] = []

        def release() -> None:
            held, server.computer.held = server.computer.held, []
            counts.append(len(held))
            for answer in held:
                answer()

        while len(answers) < 40:
            server.run(release)
            answers += [value_of(talk.hear()) for _ in range(counts[-1])]
        assert max(counts) == 4
        assert sorted(answers) == [float(n) for n in range(40)]
        assert talk.status() == grpc.StatusCode.OK


def test_deadlines_are_those_of_the_call() -> None:
    """A request has its own time, and no more than is left of the stream's."""
    with serving() as (server, channel):
        server.computer.hold = True
        talk = Talk(channel, timeout=5)
        talk.say(asking(1.0))
        until(lambda: len(server.computer.contexts) == 1)
        context = server.computer.contexts[0]
        assert context.deadline_ns - context.arrival_ns <= 5 * 10**9
        talk.call.cancel()


def test_keys(tmp_path: Path) -> None:
    """A stream needs a key, names what it may not call, and ends when the key is taken away."""
    key = "k" * 43
    digest = hashlib.sha256(key.encode()).hexdigest()
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n- {{sha256: '{digest}', principal: p, endpoints: [{MODEL}]}}\n")
    with serving(keys=keys) as (server, channel):
        assert Talk(channel).status() == grpc.StatusCode.UNAUTHENTICATED
        talk = Talk(channel, metadata=[("authorization", f"Bearer {key}")])
        other = infer_request("two", {n: np.array([1], np.float32) for n in "ab"})
        talk.say(asking(1.0), other)
        assert value_of(talk.hear()) == 1.0
        assert talk.hear().error_message.endswith("[forbidden]")
        keys.write_text(f"keys:\n- {{sha256: '{'0' * 64}', principal: p}}\n")
        server.run(server.keys.provision)
        talk.say(asking(2.0))
        assert talk.status() == grpc.StatusCode.UNAUTHENTICATED


def test_draining() -> None:
    """What has come is answered, then the client is asked to go elsewhere."""
    with serving() as (server, channel):
        server.computer.hold = True
        talk, ending = Talk(channel), Talk(channel)
        talk.say(asking(1.0))
        ending.say(asking(2.0))
        ending.end()
        until(lambda: len(server.computer.contexts) == 2)
        assert server.server is not None
        draining = server.begin(server.server.drain(20))
        until(lambda: server.server is not None and server.server.draining)
        server.release()
        assert value_of(talk.hear()) == 1.0
        assert value_of(ending.hear()) == 2.0
        assert talk.status() == grpc.StatusCode.UNAVAILABLE
        assert ending.status() == grpc.StatusCode.OK
        draining.result(timeout=20)


# raw frames


@contextlib.contextmanager
def opened(server: RunningServer) -> Iterator[Wire]:
    """Give a connection with one stream open for a call."""
    with Wire(server.port) as wire:
        wire.send(wire.headers(1, CALL, ends=False))
        yield wire


def data(payload: bytes, *, ends: bool = False) -> bytes:
    """Return a frame of DATA on the stream."""
    return f.frame(f.DATA, f.END_STREAM if ends else 0, 1, payload)


def packed(request: Any) -> bytes:
    """Return a message with what goes before it."""
    body: bytes = request.SerializeToString()
    return framed(len(body)) + body


def messages_of(body: bytes) -> list[Any]:
    """Return the messages of an answer."""
    found = []
    while body:
        size = PREFIX.unpack_from(body)[1]
        found.append(RESPONSE.FromString(body[PREFIX.size : PREFIX.size + size]))
        body = body[PREFIX.size + size :]
    return found


def test_frames_and_messages_are_independent(server: RunningServer) -> None:
    """Two messages are read alike, in one frame, cut at any byte, or byte by byte."""
    both = packed(asking(1.0)) + packed(asking(2.0))
    cuts = [[both[:cut], both[cut:]] for cut in range(1, len(both))]
    for parts in [[both], *cuts, [both[n : n + 1] for n in range(len(both))]]:
        with opened(server) as wire:
            for part in parts:
                wire.send(data(part))
            wire.send(data(b"", ends=True))
            head, body, trailers = wire.answer(1)
        assert head["content-type"] == "application/grpc"
        assert [value_of(one) for one in messages_of(body)] == [1.0, 2.0]
        assert trailers["grpc-status"] == "0"


def test_padding_and_trailers(server: RunningServer) -> None:
    """Padding is no part of a message, and trailers end a stream as an empty frame does."""
    with opened(server) as wire:
        both = packed(asking(1.0)) + packed(asking(2.0))
        padded = bytes((7,)) + both + bytes(7)
        wire.send(f.frame(f.DATA, f.PADDED, 1, padded))
        wire.send(wire.headers(1, {b"x-end": b"1"}))
        _, body, trailers = wire.answer(1)
    assert len(messages_of(body)) == 2
    assert trailers["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("last", "status", "code"),
    [
        (b"\x02\x00\x00\x00\x00", "3", "invalid_request"),
        (b"\x00\xff\xff\xff\xff", "8", "body_too_large"),
        (b"\x01\x00\x00\x00\x03abc", "3", "invalid_request"),
    ],
    ids=["an unknown flag", "a message over the limit", "compressed without saying how"],
)
def test_what_is_no_message_ends_the_call(
    server: RunningServer, last: bytes, status: str, code: str
) -> None:
    """What came before is answered; nothing can be read after it."""
    with opened(server) as wire:
        wire.send(data(packed(asking(1.0)) + last + packed(asking(2.0))))
        _, body, trailers = wire.answer(1)
    assert [value_of(one) for one in messages_of(body)] == [1.0]
    assert (trailers["grpc-status"], trailers["x-salver-code"]) == (status, code)


def test_garbage_in_a_message_is_that_messages_fault(server: RunningServer) -> None:
    """Bytes that are no request, in a frame that is in order, are answered with an error."""
    with opened(server) as wire:
        garbage = b"\xff" * 40
        middle = framed(len(garbage)) + garbage + framed(0)
        wire.send(data(packed(asking(1.0)) + middle + packed(asking(2.0)), ends=True))
        _, body, trailers = wire.answer(1)
    first, bad, empty, last = messages_of(body)
    assert (value_of(first), value_of(last)) == (1.0, 2.0)
    assert bad.error_message.endswith("[invalid_request]")
    assert empty.error_message.endswith("[invalid_name]")
    assert trailers["grpc-status"] == "0"


def test_an_end_within_a_message(server: RunningServer) -> None:
    """It is the caller's error, and the messages before are answered."""
    with opened(server) as wire:
        wire.send(data(packed(asking(1.0)) + packed(asking(2.0))[:-1], ends=True))
        _, body, trailers = wire.answer(1)
    assert [value_of(one) for one in messages_of(body)] == [1.0]
    assert trailers["grpc-status"] == "3"


def test_a_call_that_is_no_post(server: RunningServer) -> None:
    """It is refused before anything of it is read."""
    with Wire(server.port) as wire:
        wire.send(wire.headers(1, {**CALL, b":method": b"PUT"}, ends=True))
        head, body, _ = wire.answer(1)
    assert (head["grpc-status"], body) == ("3", b"")


class Sender:
    """Sends requests on a raw stream within the window it is given, and keeps what comes back."""

    def __init__(self, wire: Wire, window_bytes: int) -> None:
        self.wire = wire
        self.window_bytes = window_bytes
        self.body = b""

    def say(self, request: bytes) -> bool:
        """Send a message unless the window stays too small for it."""
        if len(request) > self.window_bytes:
            self.listen()
        if len(request) > self.window_bytes:
            return False
        self.window_bytes -= len(request)
        for start in range(0, len(request), 16_000):
            self.wire.send(data(request[start : start + 16_000]))
        return True

    def listen(self) -> None:
        """Read until the server has had 20 turns without giving anything back."""
        quiet = 0
        while quiet < 20:
            self.wire.send(f.frame(f.PING, 0, 0, bytes(8)))
            quiet += 1
            for frame in self.wire.frames():
                if frame.kind == f.PING:
                    break
                if frame.kind == f.WINDOW_UPDATE and frame.stream == 1:
                    self.window_bytes += f.word(frame.payload)
                    quiet = 0
                elif frame.kind == f.DATA:
                    self.body += frame.payload


def test_a_client_that_never_reads() -> None:
    """Once enough answers wait for it, it may send no more than a window.

    Others are served meanwhile, and all is answered when it reads after all.
    """
    limits = HttpSettings(write_buffer_bytes=200_000)
    http2 = Http2Settings(stream_window_bytes=100_000)
    request = packed(infer_request(MODEL, {"x": np.zeros((1, 5000), np.float32)}))
    with RunningServer(settings=limits, http2=http2) as server, opened(server) as wire:
        sender, sent = Sender(wire, 100_000), 0
        while sent < 200 and sender.say(request):
            sent += 1
        assert sent * len(request) < 65_535 + 200_000 + 100_000 + 5 * len(request)
        assert len(server.computer.contexts) < sent
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            other = Talk(channel)
            other.say(asking(1.0))
            assert value_of(other.hear()) == 1.0
            other.end()
        for stream in (0, 1):
            wire.send(f.window_update(stream, 2**30))
        until(lambda: len(server.computer.contexts) == sent + 1)
        wire.send(data(b"", ends=True))
        body = sender.body
        for frame in wire.frames():
            if frame.kind == f.DATA:
                body += frame.payload
            elif frame.kind == f.HEADERS:
                break
        answers = messages_of(body)
        assert len(answers) == sent
        assert not any(one.error_message for one in answers)


def test_an_answer_larger_than_what_may_wait() -> None:
    """A client that has sent its last and then reads a large answer also hears the end."""
    large = packed(infer_request(MODEL, {"x": np.zeros((1, 75_000), np.float32)}))
    limits = HttpSettings(write_buffer_bytes=100_000)
    with RunningServer(settings=limits) as server, opened(server) as wire:
        for start in range(0, len(large), 16_000):
            wire.send(data(large[start : start + 16_000]))
        until(lambda: len(server.computer.contexts) == 1)
        wire.send(data(b"", ends=True))
        Sender(wire, 0).listen()
        for stream in (0, 1):
            wire.send(f.window_update(stream, 2**30))
        wire.until(f.HEADERS, 1)


def test_a_client_that_never_reads_is_given_up() -> None:
    """Its stream ends after a while, also when it goes on sending; what was open is cancelled."""
    answer = packed(infer_request(MODEL, {"x": np.zeros((1, 20_000), np.float32)}))
    with RunningServer(settings=HttpSettings(body_timeout_s=0.2)) as server, opened(server) as wire:
        for start in range(0, len(answer), 16_000):
            wire.send(data(answer[start : start + 16_000]))
        until(lambda: len(server.computer.contexts) == 1)
        server.computer.hold = True
        wire.send(data(packed(asking(1.0))))
        until(lambda: len(server.computer.contexts) == 2)
        context = server.computer.contexts[1]

        def is_given_up() -> bool:
            wire.send(data(framed(0)))
            return context.cancelled

        until(is_given_up)
        assert f.word(wire.until(f.RST_STREAM, 1).payload) == f.CANCEL
        assert server.inference.open_count == 0


def test_chunks_for_a_client_that_never_reads() -> None:
    """A model that goes on for a client that does not read is stopped, and that request fails."""
    with RunningServer(settings=HttpSettings(max_body_bytes=100_000)) as server:
        with opened(server) as wire:
            wire.send(data(packed(chunked(",".join(["2000"] * 50), wants_final=False))))
            until(lambda: any(context.cancelled for context in server.computer.contexts))
            for stream in (0, 1):
                wire.send(f.window_update(stream, 2**30))
            wire.send(data(packed(asking(1.0)), ends=True))
            _, body, trailers = wire.answer(1)
        answers = messages_of(body)
        assert answers[-2].error_message.endswith("[model_failed]")
        assert value_of(answers[-1]) == 1.0
        assert len(answers) < 50
        assert trailers["grpc-status"] == "0"


def test_a_client_that_leaves_off_within_a_message() -> None:
    """A message whose rest does not come is given up; an idle stream is not, for a long time."""
    with (
        RunningServer(settings=HttpSettings(body_timeout_s=0.2)) as server,
        opened(server) as idle,
        opened(server) as wire,
    ):
        wire.send(data(packed(asking(1.0)) + packed(asking(2.0))[:-1]))
        _, body, trailers = wire.answer(1)
        assert [value_of(one) for one in messages_of(body)] == [1.0]
        assert trailers["x-salver-code"] == "read_timeout"
        idle.send(data(packed(asking(3.0)), ends=True))
        assert [value_of(one) for one in messages_of(idle.answer(1)[1])] == [3.0]


def test_a_stream_that_lies_still() -> None:
    """A stream on which nothing was said for too long ends."""
    http2 = Http2Settings(stream_idle_timeout_s=0.2)
    with RunningServer(http2=http2) as server, opened(server) as wire:
        wire.send(data(packed(asking(1.0))))
        _, body, trailers = wire.answer(1)
    assert [value_of(one) for one in messages_of(body)] == [1.0]
    assert trailers["x-salver-code"] == "read_timeout"


def test_many_frames_of_one_byte_take_little() -> None:
    """Bytes that wait are kept together, whatever frames they came in."""
    incoming = Incoming(1000)
    for _ in range(10_000):
        incoming.add(b"x")
    assert len(incoming._chunks) <= 3


PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([packed(asking(1.0)), packed(asking(2.0))[:-3], framed(0), framed(5)]),
    st.binary(max_size=60).map(lambda body: framed(len(body)) + body),
)


@given(pieces=st.lists(PIECES, max_size=8), cuts=st.lists(st.integers(1, 300), max_size=8))
@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bytes(server: RunningServer, pieces: list[bytes], cuts: list[int]) -> None:
    """Whatever comes, in whatever frames, the call ends with a status and nothing stays open."""
    rest = b"".join(pieces)
    with opened(server) as wire:
        for cut in cuts:
            wire.send(data(rest[:cut]))
            rest = rest[cut:]
        wire.send(data(rest, ends=True))
        head, body, trailers = wire.answer(1)
        assert {**head, **trailers}["grpc-status"] in ("0", "3", "8")
        messages_of(body)
        wire.send(wire.headers(3, {**CALL, b":path": b"/grpc.health.v1.Health/Check"}, ends=False))
        wire.send(f.frame(f.DATA, f.END_STREAM, 3, framed(0)))
        assert wire.answer(3)[2]["grpc-status"] == "0"
    assert server.inference.open_count == 0


@pytest.mark.parametrize("path", [PATH, "/grpc.health.v1.Health/Watch"])
def test_a_call_ends_when_its_time_is_over(path: str) -> None:
    """Also of a client that has forgotten it: what it holds is let go, and it is told."""
    fields = CALL | {b":path": path.encode(), b"grpc-timeout": b"300m"}
    with RunningServer() as server, Wire(server.port) as wire:
        server.computer.hold = True
        wire.send(wire.headers(1, fields, ends=False))
        if path == PATH:
            wire.send(data(packed(asking(1.0))))
        head, _, trailers = wire.answer(1)
        if path == PATH:
            assert server.computer.contexts[0].cancelled
            assert server.inference.open_count == 0
    assert (head | trailers)["grpc-status"] == "4"


def test_a_time_that_is_none_is_refused(server: RunningServer) -> None:
    """As for calls of one message."""
    with Wire(server.port) as wire:
        wire.send(wire.headers(1, CALL | {b"grpc-timeout": b"soon"}, ends=False))
        head, _, _ = wire.answer(1)
    assert head["grpc-status"] == "3"
