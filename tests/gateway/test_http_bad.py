"""Bytes that must be refused with a coded error, after which the next caller is served."""

import gzip
import socket
import time
import zlib
from pathlib import Path

import orjson
import pytest

from salver.core.settings import HttpSettings
from tests.gateway.inprocess import (
    RunningServer,
    exchange_bytes,
    post,
    read_all,
    split_reply,
    until,
)

INFER = "/v2/models/two/infer"
GOOD = orjson.dumps(
    {
        "inputs": [
            {"name": "a", "shape": [1], "datatype": "FP32", "data": [3]},
            {"name": "b", "shape": [1], "datatype": "FP32", "data": [1]},
        ]
    }
)
MIB = 1024 * 1024


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def assert_served(server: RunningServer) -> None:
    """A new connection must be answered as if nothing had happened."""
    status, _, body = split_reply(exchange_bytes(server.port, post(INFER, GOOD)))
    assert status == 200
    assert orjson.loads(body)["outputs"][0]["data"] == [4.0]


def connections(server: RunningServer) -> int:
    """Return how many connections are open."""
    assert server.server is not None
    return server.server.connections


def refused(server: RunningServer, data: bytes) -> tuple[int, str]:
    """Send bytes, check that the refusal is coded, return status and code."""
    status, headers, body = split_reply(exchange_bytes(server.port, data))
    document = orjson.loads(body)
    assert set(document) == {"error", "code", "request_id"}
    assert document["error"]
    assert headers["content-type"] == "application/json"
    assert_served(server)
    return status, document["code"]


SMUGGLING = {
    "length and chunked": b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    b"Content-Length: 4\r\n\r\nabc",
    "two equal lengths": b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    b"Content-Length: 3\r\n\r\nabc",
    "signed length": b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "negative length": b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc",
    "list of lengths": b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
    "bare line feeds": b"POST /v2 HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc",
    "bare line feed in a header": b"GET /v2 HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "folded header": b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "space before colon": b"GET /v2 HTTP/1.1\r\nHost : a\r\n\r\n",
    "other encoding": b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n"
    b"\r\n0\r\n\r\n",
    "odd encoding": b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "broken chunk size": b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"zz\r\nabc\r\n0\r\n\r\n",
    "chunk with bare line feed": b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"\r\n3\nabc\r\n0\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "other encoding in a field of its own": b"POST /v2 HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /v2 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/2.0 in text": b"GET /v2 HTTP/2.0\r\nHost: a\r\n\r\n",
    "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two keys": b"GET /v2 HTTP/1.1\r\nHost: a\r\nX-API-Key: b\r\nX-API-Key: c\r\n\r\n",
    "tunnel": b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "NUL in header": b"GET /v2 HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_ambiguous_or_broken_http_is_refused(server: RunningServer, name: str) -> None:
    """What two parsers could read differently is a 400, and the connection is closed."""
    assert refused(server, SMUGGLING[name]) == (400, "malformed_http")


def test_a_request_behind_a_broken_one_is_not_read(server: RunningServer) -> None:
    """After a malformed request nothing more of the connection is interpreted."""
    data = SMUGGLING["two lengths"] + post(INFER, GOOD)
    reply = exchange_bytes(server.port, data)
    assert reply.count(b"HTTP/1.1 ") == 1


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server: RunningServer) -> None:
    """A Content-Length of 1 GB is answered at once and occupies no memory."""
    before = resident_bytes()
    data = b"POST /v2/models/two/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n"
    assert refused(server, data) == (413, "body_too_large")
    assert resident_bytes() - before < 50 * MIB


def test_announced_bodies_that_never_come_occupy_no_memory(server: RunningServer) -> None:
    """Fifty connections that announce 200 MB each and send nothing keep memory flat."""
    before = resident_bytes()
    clients = []
    for _ in range(50):
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(
            b"POST /v2/models/two/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 200000000\r\n\r\n"
        )
        clients.append(client)
    assert_served(server)
    assert resident_bytes() - before < 50 * MIB
    for client in clients:
        client.close()


def test_header_floods_are_refused(server: RunningServer) -> None:
    """Too many fields, one endless field, and an endless target each get a 431."""
    many = b"GET /v2 HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(200)) + b"\r\n"
    assert refused(server, many) == (431, "headers_too_large")
    long = b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"
    assert refused(server, long) == (431, "headers_too_large")
    target = b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert refused(server, target) == (431, "headers_too_large")


def test_an_endless_header_field_is_refused_while_it_is_sent(server: RunningServer) -> None:
    """A field without an end gets its 431 without the memory of what was sent, and can be read."""
    before = resident_bytes()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: ")
        for _ in range(64):
            client.sendall(b"a" * MIB)
        client.shutdown(socket.SHUT_WR)
        status, _, body = split_reply(read_all(client))
    assert (status, orjson.loads(body)["code"]) == (431, "headers_too_large")
    assert resident_bytes() - before < 30 * MIB


def test_a_refused_body_that_is_sent_all_the_same_does_not_hide_the_answer(
    server: RunningServer,
) -> None:
    """A caller that goes on sending a refused body still reads why it was refused."""
    head = b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(head)
        for _ in range(32):
            client.sendall(b"a" * MIB)
        client.shutdown(socket.SHUT_WR)
        assert split_reply(read_all(client))[0] == 413


def test_lingering_ends(server: RunningServer) -> None:
    """A refused caller that neither stops sending nor leaves is cut off."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(SMUGGLING["two lengths"])
        assert split_reply(client.recv(65536))[0] == 400
        # A reset or a broken pipe, as timing has it.
        with pytest.raises(OSError):
            _send_slowly(client)


def _send_slowly(client: socket.socket) -> None:
    for _ in range(1000):
        client.sendall(b"a")
        time.sleep(0.01)


def test_trailers_change_nothing() -> None:
    """A field after a chunked body is not taken for a header: it cannot bring a key."""
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % INFER.encode()
    chunk = b"%x\r\n%b\r\n0\r\nInference-Header-Content-Length: 0\r\n\r\n" % (len(GOOD), GOOD)
    with RunningServer() as server:
        status, _, body = split_reply(exchange_bytes(server.port, head + chunk))
    assert status == 200
    assert orjson.loads(body)["outputs"][0]["data"] == [4.0]


def test_inflating_bodies_are_capped() -> None:
    """A small gzip or deflate body that inflates beyond the limit is refused, memory flat."""
    with RunningServer(HttpSettings(max_inflated_bytes=MIB)) as server:
        before = resident_bytes()
        bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
        packed = b"".join(bomb.compress(b" " * MIB) for _ in range(256)) + bomb.flush()
        data = post(INFER, packed, "Content-Encoding: gzip")
        assert refused(server, data) == (413, "body_too_large")
        data = post(INFER, zlib.compress(b" " * 2 * MIB), "Content-Encoding: deflate")
        assert refused(server, data) == (413, "body_too_large")
        assert resident_bytes() - before < 50 * MIB


def test_damaged_and_unknown_encodings_are_refused(server: RunningServer) -> None:
    """Cut or trailing gzip data is malformed; brotli is not supported and the error says so."""
    packed = gzip.compress(GOOD)
    for body in (packed[:-4], packed + b"more", b"no gzip"):
        data = post(INFER, body, "Content-Encoding: gzip")
        assert refused(server, data) == (400, "malformed_http")
    data = post(INFER, GOOD, "Content-Encoding: br")
    assert refused(server, data) == (415, "unsupported_encoding")


def test_slow_headers_and_bodies_time_out() -> None:
    """A caller that sends one byte at a time is refused with a 408 while others are served."""
    settings = HttpSettings(header_timeout_s=0.3, body_timeout_s=0.3)
    with RunningServer(settings) as server:
        for start in (b"GET /v2 HT", post(INFER, GOOD, close=False)[:-20]):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
                client.sendall(start)
                assert_served(server)
                status, _, body = split_reply(read_all(client))
                assert (status, orjson.loads(body)["code"]) == (408, "read_timeout")


def test_a_body_below_the_least_rate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that trickles in, though within its total time, is given up."""
    monkeypatch.setattr("salver.gateway.http.patience._RATE_GRACE_S", 0.2)
    with (
        RunningServer(HttpSettings(min_body_rate_bytes_s=10_000)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
    ):
        client.sendall(b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        client.settimeout(0.05)
        reply = b""
        for _ in range(200):
            try:
                client.sendall(b"a")
                reply += client.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if reply:
                break
        assert split_reply(reply)[0] == 408


def test_idle_connections_are_closed() -> None:
    """A silent keep-alive connection ends after the idle time, without an answer."""
    with (
        RunningServer(HttpSettings(idle_timeout_s=0.2)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
    ):
        assert read_all(client) == b""


def test_connections_over_the_limit_are_refused() -> None:
    """One connection too many is told so and closed; when another ends there is room again."""
    with RunningServer(HttpSettings(max_connections=2)) as server:
        first = socket.create_connection(("127.0.0.1", server.port))
        second = socket.create_connection(("127.0.0.1", server.port))
        until(lambda: connections(server) == 2)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as third:
            status, headers, body = split_reply(read_all(third))
            assert (status, orjson.loads(body)["code"]) == (503, "overloaded")
            assert headers["retry-after"] == "1"
        first.close()
        second.close()
        until(lambda: connections(server) == 0)
        assert_served(server)


JSON_BODIES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "invalid_json"),
    "a list": (b"[]", "invalid_request"),
    "nothing": (b"", "invalid_json"),
    "no inputs": (b"{}", "invalid_request"),
    "NaN text": (GOOD.replace(b"[3]", b"[NaN]"), "invalid_json"),
    "Infinity text": (GOOD.replace(b"[3]", b"[Infinity]"), "invalid_json"),
    "depth 10,000": (b'{"inputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "invalid_json"),
    "wrong product": (GOOD.replace(b'"shape":[1]', b'"shape":[2]', 1), "invalid_tensor"),
    "negative size": (GOOD.replace(b'"shape":[1]', b'"shape":[-1]', 1), "invalid_tensor"),
    "two negatives": (GOOD.replace(b'"shape":[1]', b'"shape":[-1,-1]', 1), "invalid_tensor"),
    "overflowing product": (
        GOOD.replace(b'"shape":[1]', b'"shape":[4294967296,4294967296,4294967296,1]', 1),
        "invalid_tensor",
    ),
    "overflowing size": (
        GOOD.replace(b'"shape":[1]', b'"shape":[99999999999999999999]', 1),
        "invalid_tensor",
    ),
    "fractional size": (GOOD.replace(b'"shape":[1]', b'"shape":[1.0]', 1), "invalid_tensor"),
    "text for numbers": (GOOD.replace(b"[3]", b'["3"]'), "invalid_tensor"),
    "null for a number": (GOOD.replace(b"[3]", b"[null]"), "invalid_tensor"),
    "boolean for a number": (GOOD.replace(b"[3]", b"[true]"), "invalid_tensor"),
    "too large for FP32": (GOOD.replace(b"[3]", b"[1e300]"), "invalid_tensor"),
    "unknown datatype": (GOOD.replace(b"FP32", b"FP8", 1), "invalid_tensor"),
    "other datatype": (GOOD.replace(b"FP32", b"INT32", 1), "invalid_tensor"),
    "unknown input": (GOOD.replace(b'"a"', b'"z"'), "unknown_input"),
    "missing input": (GOOD[: GOOD.index(b',{"name":"b"')] + b"]}", "missing_input"),
    "twice the same": (GOOD.replace(b'"b"', b'"a"'), "invalid_tensor"),
    "unknown output": (GOOD[:-1] + b',"outputs":[{"name":"z"}]}', "unknown_output"),
    "number as id": (GOOD[:-1] + b',"id":5}', "invalid_request"),
    "text that is not UTF-8": (GOOD.replace(b'"a"', b'"\xff"'), "invalid_json"),
    "half a surrogate": (GOOD.replace(b'"a"', b'"\\ud800"'), "invalid_json"),
    "depth 5,000 where nobody looks": (
        GOOD[:-1] + b',"more":' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json",
    ),
    "depth 3,000 of objects": (
        GOOD[:-1] + b',"parameters":' + b'{"a":' * 3000 + b"1" + b"}" * 3001, "invalid_json",
    ),
    "infinite by its exponent": (GOOD.replace(b"[3]", b"[1e400]"), "invalid_json"),
    "binary size without binary data": (
        GOOD.replace(b'"data":[3]', b'"data":[3],"parameters":{"binary_data_size":4}'),
        "invalid_tensor",
    ),
    "ragged": (GOOD.replace(b'"shape":[1]', b'"shape":[2,2]', 1).replace(b"[3]", b"[[1,2],[3]]"),
        "invalid_tensor",
    ),
    "negative timeout": (GOOD[:-1] + b',"parameters":{"timeout":-1}}', "invalid_request"),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_BODIES)
def test_a_bad_body_gets_a_coded_400(server: RunningServer, name: str) -> None:
    """Every way a body can be wrong has its code, and the next caller is served."""
    body, code = JSON_BODIES[name]
    assert refused(server, post(INFER, body)) == (400, code)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://test/v2/health/live", 200),
        ("HTTPS://user@test:8080/v2/health/live?x=http://other/v3", 200),
        ("http://test", 200),
        ("http://test?x", 200),
        ("http://test/v3", 404),
        ("http:///v2/health/live", 404),
        ("/http://test/v2/health/live", 404),
        ("ftp://test/v2/health/live", 404),
    ],
)
def test_targets_in_absolute_form(server: RunningServer, target: str, status: int) -> None:
    """A server must accept them (RFC 9112, 3.2.2), for inference too."""
    asked = f"GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode()
    assert split_reply(exchange_bytes(server.port, asked))[0] == status
    if status == 200:
        absolute = f"http://test:80{INFER}"
        assert split_reply(exchange_bytes(server.port, post(absolute, GOOD)))[0] == 200


def test_unknown_paths_methods_and_names(server: RunningServer) -> None:
    """A wrong path is 404, a wrong method 405 with Allow, a wrong name 400."""
    assert refused(server, post("/v3", b"")) == (404, "route_not_found")
    assert refused(server, post("/v2/models/none/infer", GOOD)) == (404, "endpoint_not_found")
    assert refused(server, post("/v2/models/..%2f..%2fetc/infer", GOOD)) == (400, "invalid_name")
    assert refused(server, post("/v2/models/two/versions/9/infer", GOOD)) == (
        404,
        "version_not_found",
    )
    status, headers, _ = split_reply(
        exchange_bytes(server.port, b"DELETE /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    )
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    status, headers, _ = split_reply(
        exchange_bytes(
            server.port,
            b"GET /v2/models/two/infer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
    )
    assert (status, headers["allow"]) == (405, "POST, OPTIONS")


@pytest.mark.parametrize("path", ["/v2", "/v2/models/two", "/v2/models/none", INFER, "/none"])
def test_head_is_answered_without_a_body(server: RunningServer, path: str) -> None:
    """HEAD gives headers only, also when it is refused, so that the next answer is not misread."""
    head = b"HEAD %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(head + post(INFER, GOOD))
        first, _, rest = read_all(client).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 ")
    assert rest.startswith(b"HTTP/1.1 200 OK")


def test_options_lists_the_methods(server: RunningServer) -> None:
    """OPTIONS says what a path takes."""
    for path, methods in ((INFER, "POST, OPTIONS"), ("/v2", "GET, HEAD, OPTIONS")):
        request = b"OPTIONS %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode()
        status, headers, body = split_reply(exchange_bytes(server.port, request))
        assert (status, headers["allow"], body) == (200, methods, b"")


def test_an_offer_to_upgrade_is_ignored(server: RunningServer) -> None:
    """A client that offers HTTP/2 gets one HTTP/1.1 answer, and its connection goes on."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(post(INFER, GOOD, *offer, close=False) + post(INFER, GOOD))
        data = read_all(client)
    assert data.count(b"HTTP/1.1 200 OK") == data.count(b"HTTP/1.1 ") == 2


def test_an_endpoint_without_a_ready_model_says_when_to_retry(server: RunningServer) -> None:
    """Refusals for lack of a ready model are 503 with Retry-After and the reason."""
    data = exchange_bytes(server.port, post("/v2/models/loading/infer", GOOD))
    status, headers, body = split_reply(data)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "still loading" in orjson.loads(body)["error"]
