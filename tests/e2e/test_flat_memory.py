"""What is small on the way and large when it is read never becomes so in the gateway."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from salver.gateway.grpc.wire import varint
from salver.gateway.h2 import frames as f
from tests.e2e.server import Server, ask
from tests.e2e.test_clients import deploy_double
from tests.e2e.test_residency import most_bytes
from tests.gateway.grpc.calls import infer, infer_request, message, two_rows
from tests.gateway.grpc.test_limits import raw_call
from tests.gateway.grpc.test_streams import packed
from tests.gateway.h2.wire import GET_LIVE, Wire
from tests.gateway.inprocess import exchange_bytes, post, split_reply

MIB = 1024 * 1024
PART_BYTES = 60 * MIB
# A few copies of a message that is within the limits, whatever it is made of.
MOST_MORE_BYTES = 4 * PART_BYTES
MOST_OF_A_BOMB_BYTES = 64 * MIB
CALL_MIB = 1
CALL = GET_LIVE | {
    b":method": b"POST",
    b":path": b"/inference.GRPCInferenceService/ModelInfer",
    b"content-type": b"application/grpc",
}


def bomb() -> bytes:
    """Return a gibibyte of zeros, compressed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    zeros = bytes(MIB)
    return b"".join([packer.compress(zeros) for _ in range(1024)]) + packer.flush()


def typed(field: bytes) -> bytes:
    """Return a compressed ``ModelInferRequest`` with as many of a field as fit into its limit."""
    contents = field * (PART_BYTES // len(field))
    inner = b"\x2a" + varint(len(contents)) + contents
    head = message("ModelInferRequest", model_name="double").SerializeToString()
    return gzip.compress(head + b"\x2a" + varint(len(inner)) + inner, 1)


def json(part: bytes) -> bytes:
    """Return a compressed body with a list of as many parts as fit into its limit."""
    data = (part + b",") * (PART_BYTES // (len(part) + 1)) + part
    head = b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":['
    return gzip.compress(head + data + b"]}]}", 1)


def over_grpc(server: Server, packed: bytes) -> tuple[str, str]:
    """Send a compressed message; returns Salver's code and gRPC's status."""
    body = b"\x01" + len(packed).to_bytes(4, "big") + packed
    head, _ = raw_call(server.port, body, {b"grpc-encoding": b"gzip"})
    return head["x-salver-code"], head["grpc-status"]


def over_rest(server: Server, packed: bytes) -> tuple[str, str]:
    """Send a compressed body; returns Salver's code and HTTP's status."""
    request = post("/v2/models/double/infer", packed, "Content-Encoding: gzip")
    status, _, body = split_reply(exchange_bytes(server.port, request, 60))
    return ("body_too_large" if b'"body_too_large"' in body else body.decode()), str(status)


class Mute:
    """A client that makes calls of ``CALL_MIB`` and opens no window for their answers.

    It waits for the head of each answer, so that no more is under way than it was allowed to have
    unread, until one does not come.
    """

    def __init__(self, port: int) -> None:
        self.wire = Wire(port)
        self.wire._socket.settimeout(2.0)
        self._window_bytes = f.DEFAULT_WINDOW
        self._is_served = True
        values = np.zeros((1, CALL_MIB * MIB // 4 - 100), np.float32)
        self._body = packed(infer_request("double", {"x": values}))

    def open(self, stream: int) -> None:
        """Begin a call."""
        self.wire.send(self.wire.headers(stream, CALL, ends=False))

    def complete(self, stream: int) -> None:
        """Send the message of a call, as far as the server lets it."""
        body = self._body
        if self._window_bytes < len(body):
            self._hear(f.PING, 0)
        if self._window_bytes < len(body):
            return
        for start in range(0, len(body), 16_384):
            ends = f.END_STREAM if start + 16_384 >= len(body) else 0
            self.wire.send(f.frame(f.DATA, ends, stream, body[start : start + 16_384]))
        self._window_bytes -= len(body)
        if self._is_served:
            self._is_served = self._hear(f.HEADERS, stream)

    def _hear(self, kind: int, stream: int) -> bool:
        """Take what comes until such a frame; False if none comes."""
        self.wire.send(f.frame(f.PING, 0, 0, bytes(8)))
        try:
            for frame in self.wire.frames():
                if (frame.kind, frame.stream) == (f.WINDOW_UPDATE, 0):
                    self._window_bytes += f.word(frame.payload)
                if (frame.kind, frame.stream) == (kind, stream):
                    return True
        except TimeoutError:
            pass
        return False


EXHAUSTED = str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
CASES: dict[str, tuple[Callable[[Server, bytes], tuple[str, str]], Callable[[], bytes], int]] = {
    "a bomb over gRPC": (over_grpc, bomb, MOST_OF_A_BOMB_BYTES),
    "a bomb over REST": (over_rest, bomb, MOST_OF_A_BOMB_BYTES),
    "empty elements over gRPC": (over_grpc, lambda: typed(b"\x42\x00"), MOST_MORE_BYTES),
    "numbers one by one over gRPC": (over_grpc, lambda: typed(b"\x10\x01"), MOST_MORE_BYTES),
    "empty texts in JSON": (over_rest, lambda: json(b'""'), MOST_MORE_BYTES),
    "empty lists in JSON": (over_rest, lambda: json(b"[]"), MOST_MORE_BYTES),
    "empty objects in JSON": (over_rest, lambda: json(b"{}"), MOST_MORE_BYTES),
}


@pytest.fixture(scope="module")
def ready(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Give the server with a model that has answered."""
    deploy_double(server, tmp_path_factory.mktemp("double"))
    assert ask(server.port, "double", 1.0)[0] == 200
    return server


@pytest.mark.parametrize("case", CASES)
def test_memory_stays_flat(ready: Server, case: str) -> None:
    """It is refused as too large, with the gateway's memory in proportion; the next is served."""
    send, make, most_more_bytes = CASES[case]
    packed = make()
    pid = ready.pid_of("gateway-0")
    assert pid is not None
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = most_bytes(pid)
    assert send(ready, packed) == ("body_too_large", EXHAUSTED if send is over_grpc else "413")
    assert most_bytes(pid) - before < most_more_bytes
    assert ask(ready.port, "double", 2.0)[0] == 200
    with grpc.insecure_channel(ready.grpc_target) as channel:
        assert infer(channel, infer_request("double", {"x": two_rows([1.0])}))
    assert ready.pid_of("gateway-0") == pid


def growth(pid: int, what: Callable[[], object]) -> int:
    """Return by how much a process grew at most while something was done."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = most_bytes(pid)
    what()
    return most_bytes(pid) - before


def test_streams_opened_first_that_nobody_reads(ready: Server) -> None:
    """A client that opens its streams and completes them later has no more kept than allowed."""
    pid = ready.pid_of("gateway-0")
    assert pid is not None
    streams = range(1, 2 * 240, 2)

    def attack() -> None:
        with (mute := Mute(ready.port)).wire:
            for stream in streams:
                mute.open(stream)
            for stream in streams:
                mute.complete(stream)
            assert ask(ready.port, "double", 2.0)[0] == 200

    # Answers and what may be sent ahead, 16 MiB each, and memory kept for the next ones.
    assert growth(pid, attack) < 96 * MIB
    assert ask(ready.port, "double", 2.0)[0] == 200


def test_connections_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many clients keeps within its limit; together they have a limit as well."""
    monkeypatch.setenv("SALVER_HTTP__UNREAD_BYTES", str(48 * MIB))
    monkeypatch.setenv("SALVER_HTTP__KEPT_MEMORY_BYTES", "0")
    with Server(tmp_path / "home") as server:
        deploy_double(server, tmp_path)
        assert ask(server.port, "double", 1.0)[0] == 200
        pid = server.pid_of("gateway-0")
        assert pid is not None

        def attack() -> None:
            mutes = [Mute(server.port) for _ in range(15)]
            for mute in mutes:
                for stream in range(1, 26, 2):
                    mute.open(stream)
                    mute.complete(stream)
            assert ask(server.port, "double", 2.0)[0] == 200
            for mute in mutes:
                mute.wire.__exit__()

        assert growth(pid, attack) < 128 * MIB
        assert server.pid_of("gateway-0") == pid
