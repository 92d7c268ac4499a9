"""The load generator's frames, and a run of it against the ceiling's HTTP/2 gateway."""

from __future__ import annotations

import array
import asyncio
import itertools
import json
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from hpack.struct import NeverIndexedHeaderTuple

from bench.ceiling import grpc_gateway, http2
from bench.ceiling.link import WorkerLink
from bench.ceiling.wire import ANSWER, HEADER, FrameBuffer
from bench.grpc_client import ask
from bench.grpc_load import Frames, load
from bench.grpc_message import infer_request, with_prefix

ROW = array.array("f", [0.5] * 30).tobytes()
MESSAGE = infer_request("tabular", "features", (1, 30), ROW)
METADATA = {"authorization": "Bearer key"}


def test_calls_are_valid_and_none_is_like_another() -> None:
    """`h2` reads every call; deadline and trace change and are never indexed, the rest stays."""
    server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    server.receive_data(http2.PREFACE + http2.opening())
    frames = Frames(8081, METADATA, with_prefix(MESSAGE), serial=7)
    calls = [frames.call(stream) for stream in (1, 3, 5)]
    events = [event for call in calls for event in server.receive_data(call)]
    asked = [event for event in events if isinstance(event, RequestReceived)]
    bodies = [event.data for event in events if isinstance(event, DataReceived)]
    assert [event.stream_id for event in asked] == [1, 3, 5]
    assert bodies == [with_prefix(MESSAGE)] * 3
    assert sum(isinstance(event, StreamEnded) for event in events) == 3
    heads = [dict(event.headers) for event in asked]
    changing = (b"grpc-timeout", b"traceparent")
    for name in changing:
        assert len({head.pop(name) for head in heads}) == 3
    assert heads[0] == heads[1] == heads[2]
    assert heads[0][b"authorization"] == b"Bearer key"
    for field in asked[2].headers:
        assert isinstance(field, NeverIndexedHeaderTuple) == (field[0] in changing)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_frames_survive_any_cut(step: int) -> None:
    """However the stream is cut into reads, the same frames come out."""
    sent = [(0, 1, 3, b"x" * 300), (8, 0, 0, b"abcd"), (1, 5, 2**31 - 1, b"")]
    stream = b"".join(http2.frame(*one) for one in sent)
    reader = http2.FrameReader()
    cuts = itertools.pairwise([*range(0, len(stream), step), len(stream)])
    assert [one for start, stop in cuts for one in reader.feed(stream[start:stop])] == sent


def test_blocks_are_forgotten_when_the_table_changes() -> None:
    """The same bytes mean another field after an entry was added."""
    blocks = http2.HeaderBlocks()
    add = b"\x40\x01%b\x01%b"
    blocks.decode(add % (b"a", b"1"))
    assert blocks.decode(b"\xbe") == blocks.decode(b"\xbe") == {b"a": b"1"}
    blocks.decode(add % (b"b", b"2"))
    assert blocks.decode(b"\xbe") == {b"b": b"2"}


class Worker(asyncio.Protocol):
    """Answers each row with its length and two numbers."""

    def __init__(self) -> None:
        self._frames = FrameBuffer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer."""
        for number, row in self._frames.feed(data):
            answer = ANSWER.pack(len(row), 0.25, 0.75)
            self.transport.write(HEADER.pack(number, len(answer)) + answer)


async def _measured(folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Start worker and gateway; return grpcio's answer and the generator's figures."""
    loop = asyncio.get_running_loop()
    path = str(folder / "worker.sock")
    far = Worker()
    worker = await loop.create_unix_server(lambda: far, path)
    to_worker, link = await loop.create_unix_connection(lambda: WorkerLink(loop), path)
    gateway = await loop.create_server(lambda: grpc_gateway.Connection(link, loop), "127.0.0.1", 0)
    port = gateway.sockets[0].getsockname()[1]
    body = folder / "call.bin"
    body.write_bytes(with_prefix(MESSAGE))
    async with worker, gateway:
        try:
            answer = await asyncio.to_thread(_asked, port)
        except grpc.RpcError as error:
            answer = {"code": error.code()}
        figures = await load([str(port), str(body), json.dumps(METADATA), "0.3", "2", "4"])
    for transport in (to_worker, far.transport):
        transport.close()
    await asyncio.sleep(0.01)
    return answer, figures


def _asked(port: int) -> dict[str, Any]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return ask(channel, METADATA, MESSAGE)


def test_the_ceiling_answers_grpcio_and_the_generator(tmp_path: Path) -> None:
    """A real client reads the right numbers, and the generator counts good calls only."""
    answer, figures = asyncio.run(_measured(tmp_path))
    assert answer["outputs"] == {"label": [len(ROW)], "probabilities": [0.25, 0.75]}
    assert figures["requests_per_s"] > 0
    assert 0 < figures["p50_us"] <= figures["p99_us"]
    assert figures["errors"] == 0


def test_a_status_other_than_ok_is_a_failed_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trailer decides, not the message before it."""
    monkeypatch.setattr(grpc_gateway, "TRAILERS", b"\x00\x0bgrpc-status\x018")
    answer, figures = asyncio.run(_measured(tmp_path))
    assert answer == {"code": grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert figures["requests_per_s"] == 0
    assert figures["errors"] > 0
