"""HTTP/1.1 as sound clients speak it."""

import gzip
import socket
import threading
import time
import zlib

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salver.core.settings import HttpSettings
from tests.gateway.inprocess import (
    RunningServer,
    exchange_bytes,
    post,
    read_all,
    split_reply,
    until,
)
from tests.gateway.test_http_bad import GOOD, INFER, connections


def body_of(a: float, b: float) -> bytes:
    """Return a request for a + b and a - b."""
    return orjson.dumps(
        {
            "inputs": [
                {"name": "a", "shape": [1], "datatype": "FP32", "data": [a]},
                {"name": "b", "shape": [1], "datatype": "FP32", "data": [b]},
            ]
        }
    )


def answers(data: bytes) -> list[list[float]]:
    """Return the sums and differences of a sequence of responses."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        outputs = orjson.loads(rest[:length])["outputs"]
        found.append([output["data"][0] for output in outputs])
        data = rest[length:]
    return found


def test_pipelined_requests_are_answered_in_order(server: RunningServer) -> None:
    """Twenty requests in one write get twenty answers in their order."""
    data = b"".join(post(INFER, body_of(i, 1), close=False) for i in range(19))
    data += post(INFER, body_of(19, 1))
    assert answers(exchange_bytes(server.port, data)) == [[i + 1, i - 1] for i in range(20)]


def test_pipelining_is_bounded_and_loses_nothing() -> None:
    """More pipelined requests than allowed at once are read later, and all are answered."""
    with (
        RunningServer(HttpSettings(max_pipelined=4)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
    ):
        server.computer.hold = True
        for index in range(12):
            client.sendall(post(INFER, body_of(index, 0), close=index == 11))
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(server.computer.held) <= 4
        server.computer.hold = False
        server.release()
        assert [pair[0] for pair in answers(read_all(client))] == list(range(12))


def test_answers_wait_for_earlier_ones() -> None:
    """A quick answer does not overtake a slow one on the same connection."""
    with (
        RunningServer() as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
    ):
        server.computer.hold = True
        client.sendall(post(INFER, body_of(1, 1), close=False))
        time.sleep(0.1)
        server.computer.hold = False
        client.sendall(post(INFER, body_of(5, 1)))
        time.sleep(0.1)
        server.release()
        assert answers(read_all(client)) == [[2, 0], [6, 4]]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 600), max_size=6))
def test_the_answer_does_not_depend_on_where_the_bytes_are_cut(
    server: RunningServer, cuts: list[int]
) -> None:
    """However the network cuts two requests, both answers are the same."""
    data = post(INFER, body_of(2, 1), close=False) + post(INFER, body_of(7, 3))
    places = sorted({cut for cut in cuts if cut < len(data)})
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, stop in zip([0, *places], [*places, len(data)], strict=True):
            client.sendall(data[start:stop])
        assert answers(read_all(client)) == [[3, 1], [10, 4]]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=400), place=st.integers(0, 300))
def test_noise_never_hangs_or_faults(server: RunningServer, noise: bytes, place: int) -> None:
    """Random bytes in a request get an answer of their own fault, or a closed connection."""
    data = post(INFER, GOOD)
    reply = exchange_bytes(server.port, data[:place] + noise + data[place:])
    if reply:
        assert split_reply(reply)[0] in (200, 400, 401, 404, 405, 408, 413, 415, 431, 501)


def test_chunked_bodies(server: RunningServer) -> None:
    """A chunked body is the same body."""
    chunks = b"".join(b"1\r\n%b\r\n" % GOOD[i : i + 1] for i in range(len(GOOD))) + b"0\r\n\r\n"
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    data = exchange_bytes(server.port, head % INFER.encode() + chunks)
    assert answers(data) == [[4.0, 2.0]]


def test_chunked_bodies_have_the_same_limit() -> None:
    """A chunked body over the limit is refused though it announced no length."""
    with RunningServer(HttpSettings(max_body_bytes=1000)) as server:
        head = b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        data = exchange_bytes(server.port, head + b"800\r\n" + b"a" * 2048 + b"\r\n0\r\n\r\n")
        assert split_reply(data)[0] == 413


def test_expect_continue(server: RunningServer) -> None:
    """A caller that asks first is told to go on, and refused at once when the body is too large."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        request = post(INFER, GOOD, "Expect: 100-continue")
        head, _, body = request.partition(b"\r\n\r\n")
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert answers(read_all(client)) == [[4.0, 2.0]]
    large = b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\nExpect: 100-continue"
    assert split_reply(exchange_bytes(server.port, large + b"\r\n\r\n"))[0] == 413


def test_compressed_requests_and_answers(server: RunningServer) -> None:
    """Both gzip and deflate work in both directions, and q=0 switches the answer's off."""
    for name, pack, unpack in (
        ("gzip", gzip.compress, gzip.decompress),
        ("deflate", zlib.compress, zlib.decompress),
    ):
        request = post(INFER, pack(GOOD), f"Content-Encoding: {name}", f"Accept-Encoding: {name}")
        _, headers, body = split_reply(exchange_bytes(server.port, request))
        assert headers["content-encoding"] == name
        assert orjson.loads(unpack(body))["outputs"][0]["data"] == [4.0]
    request = post(INFER, GOOD, "Accept-Encoding: gzip;q=0")
    assert "content-encoding" not in split_reply(exchange_bytes(server.port, request))[1]


def test_large_binary_bodies_arrive_whole(server: RunningServer) -> None:
    """A tensor of 8 MB goes in and out unchanged, twice on one connection."""
    tensor = np.random.default_rng(1).random((1024, 2048), np.float32)
    document = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": list(tensor.shape),
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": tensor.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    header = f"Inference-Header-Content-Length: {len(document)}"
    body = document + tensor.tobytes()
    first = post("/v2/models/identity-fp32/infer", body, header, close=False)
    second = post("/v2/models/identity-fp32/infer", body, header)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        sender = threading.Thread(target=client.sendall, args=(first + second,))
        sender.start()
        data = read_all(client)
        sender.join()
    for _ in range(2):
        head, _, rest = data.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        json_length = int(fields[b"inference-header-content-length"])
        length = int(fields[b"content-length"])
        answer = np.frombuffer(rest[json_length:length], np.float32).reshape(tensor.shape)
        assert np.array_equal(answer, tensor)
        data = rest[length:]
    assert data == b""


def test_a_caller_who_leaves_cancels_its_request() -> None:
    """Closing the connection before the answer cancels the context and counts as cancelled."""
    with RunningServer() as server:
        server.computer.hold = True
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(post(INFER, GOOD))
            until(lambda: bool(server.computer.contexts))
        until(lambda: server.computer.contexts[0].cancelled)
        server.release()
        server.call(_drain(server))
        assert [exchange.code for exchange in server.exchanges] == ["cancelled"]


async def _drain(server: RunningServer) -> None:
    server.ring.drain()


def test_draining_answers_what_is_open_and_accepts_nothing_new() -> None:
    """The listener closes first, an open request is answered, idle connections are closed."""
    with RunningServer() as server:
        server.computer.hold = True
        idle = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        busy = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        busy.sendall(post(INFER, GOOD, close=False))
        until(lambda: connections(server) == 2 and len(server.computer.held) == 1)
        assert server.server is not None
        draining = threading.Thread(target=server.call, args=(server.server.drain(10),))
        draining.start()
        assert read_all(idle) == b""
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        server.release()
        assert answers(read_all(busy)) == [[4.0, 2.0]]
        draining.join()
        idle.close()
        busy.close()


def test_the_last_answer_before_the_end_says_so() -> None:
    """A connection in use when draining begins is told to close with its answer."""
    with (
        RunningServer() as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
    ):
        server.computer.hold = True
        client.sendall(post(INFER, body_of(1, 1), close=False))
        client.sendall(post(INFER, body_of(2, 1), close=False))
        until(lambda: len(server.computer.held) == 2)
        inner = server.server
        assert inner is not None
        draining = threading.Thread(target=server.call, args=(inner.drain(10),))
        draining.start()
        until(lambda: inner.draining)
        server.release()
        data = read_all(client)
        draining.join()
    assert answers(data) == [[2, 0], [3, 1]]
    assert data.count(b"Connection: close") == 1
    assert data.rindex(b"HTTP/1.1 ") < data.index(b"Connection: close")


def test_a_client_that_takes_no_answer_is_cut_off() -> None:
    """An answer that nobody reads does not hold its connection and memory for ever."""
    with (
        RunningServer(HttpSettings(body_timeout_s=0.6)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
    ):
        body = _wide(200_000)
        for _ in range(8):
            client.sendall(post("/v2/models/identity-fp32/infer", body, close=False))
        assert server.server is not None
        deadline = time.monotonic() + 20
        while server.server.connections and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not server.server.connections


def test_remembered_heads_change_nothing() -> None:
    """With and without the memory of heads, a connection with changing bodies is answered alike."""
    replies = []
    for remember in (True, False):
        with (
            RunningServer(HttpSettings(remember_heads=remember)) as server,
            socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
        ):
            received = []
            for index in range(30):
                client.sendall(post(INFER, body_of(index % 13, 1), close=False))
                received.append(answers(client.recv(65536)))
            replies.append(received)
    assert replies[0] == replies[1]


@pytest.mark.parametrize("path", [INFER, "/v2/health/live", "/nowhere"])
def test_a_client_of_http_1_0_is_told_that_its_connection_is_kept(
    server: RunningServer, path: str
) -> None:
    """It would wait for the end otherwise (RFC 9112, C.2.2); one that does not ask gets the end."""
    request = post(path, body_of(1, 1), close=False).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    if path == "/v2/health/live":
        request = b"GET %b HTTP/1.0\r\nHost: a\r\n\r\n" % path.encode()
    kept = request.replace(b"Host", b"Connection: Keep-Alive\r\nHost", 1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        for _ in range(3):
            client.sendall(kept)
            _, headers, _ = split_reply(client.recv(65536))
            assert headers["connection"] == "keep-alive"
        client.sendall(request)
        _, headers, _ = split_reply(read_all(client))
        assert headers["connection"] == "close"


def test_a_slow_reader_is_not_read_from() -> None:
    """A client that sends and never reads is held back instead of filling the memory."""
    with (
        RunningServer(HttpSettings(write_buffer_bytes=64 * 1024)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
    ):
        client.settimeout(1.0)
        sent = 0
        one = post("/v2/models/identity-fp32/infer", _wide(2000), close=False)
        try:
            for _ in range(20_000):
                client.sendall(one)
                sent += 1
        except TimeoutError:
            pass
        assert sent < 20_000


def _wide(count: int) -> bytes:
    return orjson.dumps(
        {"inputs": [{"name": "x", "shape": [1, count], "datatype": "FP32", "data": [0.1] * count}]}
    )
