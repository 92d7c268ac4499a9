"""HTTP/1.1 that comes in pieces: what may have an end later must not grow until then."""

import socket
import time
from collections.abc import Iterator

import orjson
import pytest

from salver.core.settings import HttpSettings
from tests.gateway.inprocess import RunningServer, post, read_all, split_reply, until

INFER = b"/v2/models/identity-fp32/infer"
HEAD = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % INFER
BODY = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [3]}]})
LIMIT_BYTES = 4096
PIECE_BYTES = 1000


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Give a server whose headers are short."""
    with RunningServer(HttpSettings(max_header_bytes=LIMIT_BYTES)) as running:
        yield running


def say(client: socket.socket, *pieces: bytes) -> None:
    """Send pieces so that each is read for itself."""
    for piece in pieces:
        client.sendall(piece)
        time.sleep(0.01)


@pytest.mark.parametrize(
    "begun",
    [b"0\r\nX: a", b"0\r\naaa", b"3\r\nabc\r\n0\r\nX: a", b"0\r\nA: b\r\nX: a", b"5;a="],
    ids=["value", "name", "behind a body", "behind a whole one", "extension of a chunk"],
)
def test_an_endless_trailer_is_refused_while_it_is_sent(
    server: RunningServer, begun: bytes
) -> None:
    """A trailer without end is refused as a header is, once it is over the limit of headers.

    Nothing of it may be waited for until the body is late, and what comes is no more than the
    limit, and what was on its way.
    """
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        say(client, HEAD, begun, *[b"a" * PIECE_BYTES] * (LIMIT_BYTES // PIECE_BYTES + 2))
        status, _, body = split_reply(read_all(client))
    assert (status, orjson.loads(body)["code"]) == (431, "headers_too_large")


def test_a_body_in_small_chunks_is_no_trailer(server: RunningServer) -> None:
    """Sizes of chunks, and trailers within the limit, count for nothing once more of a body came.

    More than the limit passes in pieces of their own, as long as there is body between them.
    """
    extension = b";a=" + b"b" * PIECE_BYTES
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        say(client, HEAD)
        size = len(BODY) // 8
        for start in range(0, len(BODY), size):
            chunk = BODY[start : start + size]
            say(client, b"%x" % len(chunk) + extension + b"\r\n", chunk + b"\r\n")
        say(client, b"0\r\nX: ", b"y" * PIECE_BYTES, b"\r\nConnection: close\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        status, _, body = split_reply(read_all(client))
    assert status == 200
    assert orjson.loads(body)["outputs"][0]["data"] == [3.0]


def test_an_empty_line_behind_a_request_begins_none() -> None:
    """It is ignored (RFC 9112, 2.2): no refusal follows, and the connection serves the next one.

    Nor does it keep the connection: with or without such lines, an idle one is closed in its time.
    """
    limits = HttpSettings(header_timeout_s=0.2, idle_timeout_s=3.0)
    request = post(INFER.decode(), BODY, close=False)
    with (
        RunningServer(limits) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        for line in (b"\r\n", b"\r", b"\n", b"\r\n\r\n"):
            client.sendall(request)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            client.sendall(line)
        with pytest.raises(TimeoutError):
            client.settimeout(1.5)
            client.recv(65536)
        client.settimeout(10)
        client.sendall(request)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        began_s = time.monotonic()
        until(lambda: not send_line(client))
        assert time.monotonic() - began_s < 8
        assert read_all(client) == b""


def send_line(client: socket.socket) -> bool:
    """Send an empty line; False when the server has closed."""
    time.sleep(0.1)
    try:
        client.sendall(b"\r\n")
    except OSError:
        return False
    return True


def test_a_request_behind_an_empty_line_still_has_its_time() -> None:
    """What has begun behind the line is refused when its headers do not come."""
    with (
        RunningServer(HttpSettings(header_timeout_s=0.2)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        say(client, b"\r\n", b"\r\nPOST ")
        assert split_reply(read_all(client))[0] == 408
