"""Large bodies are read from known callers only, and only while there is memory for them."""

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import yaml

from salver.core.settings import HttpSettings
from salver.gateway.grpc.framing import PREFIX
from salver.gateway.grpc.services.table import SMALL_CALL_BYTES
from salver.gateway.h2 import frames as f
from salver.gateway.http.large import LARGE_BODY_BYTES
from tests.gateway.h2.wire import Wire
from tests.gateway.inprocess import RunningServer, split_reply

KEY = "a-key-of-a-caller"
INFER = "/v2/models/identity-fp32/infer"
PIECE_BYTES = 16 * 1024
SIZE_BYTES = 40 * PIECE_BYTES
MAX_BODY_BYTES = 64 * 1024 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """Give a server that knows one caller."""
    path = tmp_path / "keys.yaml"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    path.write_text(yaml.safe_dump({"keys": [{"principal": "alice", "sha256": digest}]}))
    with RunningServer(HttpSettings(max_body_bytes=MAX_BODY_BYTES), path) as running:
        yield running


def refusal(client: socket.socket) -> tuple[int, str]:
    """Return status and code of the answer that comes while nothing more is sent."""
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        part = client.recv(65536)
        assert part, data
        data += part
    status, _, body = split_reply(data)
    return status, orjson.loads(body)["code"]


def head(*lines: str, path: str = INFER) -> bytes:
    """Return the head of a request."""
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: a", *lines, "", "")).encode()


def chunk(size: int) -> bytes:
    """Return a chunk of a body."""
    return b"%x\r\n" % size + b" " * size + b"\r\n"


@pytest.mark.parametrize("path", [INFER, "/v2/health/live", "/nowhere"])
@pytest.mark.parametrize("key", [None, "another-key-than-is-known"])
def test_a_large_body_of_nobody_is_refused_at_its_head(
    server: RunningServer, path: str, key: str | None
) -> None:
    """Nothing of it need come, and the client that asks whether to go on is not told to."""
    lines = [f"Content-Length: {SIZE_BYTES}", "Expect: 100-continue"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head(*lines, *([] if key is None else [f"X-API-Key: {key}"]), path=path))
        assert refusal(client) == (401, "unauthenticated")


def test_chunks_of_nobody_are_refused_once_they_are_large(server: RunningServer) -> None:
    """What may still be a short body is read, since a probe may have one; the rest is not."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head("Transfer-Encoding: chunked"))
        for _ in range(LARGE_BODY_BYTES // PIECE_BYTES):
            client.sendall(chunk(PIECE_BYTES))
        assert refusal(client) == (401, "unauthenticated")


def test_a_short_body_of_nobody_is_answered_as_before(server: RunningServer) -> None:
    """The refusal of an inference says what is missing, and the connection goes on."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        for _ in range(2):
            client.sendall(head("Content-Length: 2") + b"{}")
            assert refusal(client) == (401, "unauthenticated")


def test_chunks_stop_when_memory_is_short(server: RunningServer) -> None:
    """A body of unknown length goes on until it has doubled, and is then refused with 503."""
    assert server.server is not None
    memory = server.server.memory
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head("Transfer-Encoding: chunked", f"X-API-Key: {KEY}"))
        client.sendall(chunk(PIECE_BYTES) * 5)
        server.run(memory.refuse)
        client.sendall(chunk(PIECE_BYTES) * 10)
        assert refusal(client) == (503, "overloaded")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head("Transfer-Encoding: chunked", f"X-API-Key: {KEY}"))
        client.sendall(chunk(PIECE_BYTES) * 4)
        assert refusal(client) == (503, "overloaded")
    server.run(memory.admit)


def fields(key: str | None, **more: str) -> dict[bytes, bytes]:
    """Return the fields of a request over HTTP/2."""
    known = {} if key is None else {"x-api-key": key}
    named = {":method": "POST", ":scheme": "http", ":authority": "a", ":path": INFER}
    return {name.encode(): value.encode() for name, value in (named | known | more).items()}


def data(stream: int, count: int) -> bytes:
    """Return frames of a body that goes on."""
    return f.frame(f.DATA, 0, stream, b" " * PIECE_BYTES) * count


@pytest.mark.parametrize("announced", [False, True])
def test_streams_of_nobody_are_refused_once_they_are_large(
    server: RunningServer, announced: bool
) -> None:
    """With or without a length, the answer comes with the first 64 KiB."""
    length = {"content-length": str(SIZE_BYTES)} if announced else {}
    with Wire(server.port) as wire:
        wire.send(wire.headers(1, fields(None, **length), ends=False) + data(1, 4))
        answer, body, _ = wire.answer(1)
    assert (answer[":status"], orjson.loads(body)["code"]) == ("401", "unauthenticated")


def test_streams_stop_when_memory_is_short(server: RunningServer) -> None:
    """A body over HTTP/2 without a length is refused as one in chunks is."""
    assert server.server is not None
    memory = server.server.memory
    with Wire(server.port) as wire:
        wire.send(wire.headers(1, fields(KEY), ends=False) + data(1, 5))
        wire.send(f.frame(f.PING, 0, 0, b"12345678"))
        wire.until(f.PING)
        server.run(memory.refuse)
        wire.send(data(1, 10))
        answer, body, _ = wire.answer(1)
    server.run(memory.admit)
    assert (answer[":status"], orjson.loads(body)["code"]) == ("503", "overloaded")


def test_a_call_without_tensors_is_refused_by_its_first_bytes(server: RunningServer) -> None:
    """A message over what such calls may say is not collected, though tensors may be larger."""
    call = {"content-type": "application/grpc", "te": "trailers"}
    path = {":path": "/inference.GRPCInferenceService/ServerMetadata"}
    with Wire(server.port) as wire:
        start = PREFIX.pack(0, SMALL_CALL_BYTES + 6)
        wire.send(wire.headers(1, fields(KEY, **call, **path), ends=False))
        wire.send(f.frame(f.DATA, 0, 1, start))
        answer, _, _ = wire.answer(1)
        assert answer["grpc-status"] == "8"
        allowed = PREFIX.pack(0, SMALL_CALL_BYTES)
        wire.send(wire.headers(3, fields(KEY, **call, **path), ends=False))
        wire.send(f.frame(f.DATA, 0, 3, allowed) + f.frame(f.PING, 0, 0, b"12345678"))
        assert wire.until(f.PING).payload == b"12345678"


def test_what_follows_a_short_message_is_not_collected(server: RunningServer) -> None:
    """More than the one message of a call without tensors is refused within its limit."""
    call = {"content-type": "application/grpc", "te": "trailers"}
    path = {":path": "/inference.GRPCInferenceService/ServerMetadata"}
    pieces = SMALL_CALL_BYTES // PIECE_BYTES + 1
    with Wire(server.port) as wire:
        wire.send(wire.headers(1, fields(KEY, **call, **path), ends=False))
        wire.send(f.frame(f.DATA, 0, 1, PREFIX.pack(0, 0)))
        sent = 0
        while sent < pieces:
            # As the window allows: what was taken is given back at half of it.
            count = min(16, pieces - sent)
            wire.send(data(1, count) + f.frame(f.PING, 0, 0, b"12345678"))
            sent += count
            if sent < pieces:
                wire.until(f.PING)
        answer, _, _ = wire.answer(1)
    assert answer["grpc-status"] == "8"
