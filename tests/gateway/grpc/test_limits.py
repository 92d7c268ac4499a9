"""What a call may cost, and how its messages are compressed."""

import grpc
import numpy as np
import pytest

from salver.core.settings import HttpSettings
from salver.gateway.grpc.framing import PREFIX
from salver.gateway.grpc.wire import varint
from salver.gateway.h2 import frames as f
from salver.gateway.h2.control import ControlFrames
from salver.gateway.http.inflate import deflate
from tests.gateway.grpc.calls import (
    SERVICE,
    infer,
    infer_request,
    message,
    outputs_of,
    refusal,
    refused,
    same,
    two_rows,
)
from tests.gateway.grpc.test_calls import INVALID, held_call, send, serving
from tests.gateway.grpc.test_streams import Talk, asking, value_of
from tests.gateway.h2.wire import Wire
from tests.gateway.inprocess import RunningServer, until


def test_messages_over_the_limit() -> None:
    """Announced lengths are believed before anything is kept; bombs stop at the cap."""
    small = HttpSettings(max_body_bytes=10_000, max_inflated_bytes=10_000)
    with serving(settings=small) as (_, channel):
        request = infer_request("identity-fp32", {"x": two_rows([0.0] * 5000)})
        assert refusal(channel, request)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        small_one = infer_request("identity-fp32", {"x": two_rows([0.0] * 50)})
        assert infer(channel, small_one)
        assert refusal(channel, request, compression=grpc.Compression.Gzip) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "body_too_large",
        )


def test_elements_over_the_limit() -> None:
    """Elements of BYTES are counted before they are made, raw and typed, over all inputs."""
    exhausted = (grpc.StatusCode.RESOURCE_EXHAUSTED, "body_too_large")
    with serving(settings=HttpSettings(max_objects=5000)) as (_, channel):
        for raw in (True, False):
            allowed = np.full((5, 1000), b"", object)
            request = infer_request("identity-bytes", {"x": allowed}, raw=raw)
            assert infer(channel, request).outputs[0].shape == [5, 1000]
            above = np.full((1, 5001), b"", object)
            assert refusal(channel, infer_request("identity-bytes", {"x": above}, raw=raw)) == (
                exhausted
            )
            halves = {name: np.full(2501, b"", object) for name in "ab"}
            assert refusal(channel, infer_request("two", halves, raw=raw)) == exhausted
        numbers = infer_request("identity-fp32", {"x": np.zeros((2, 5001), np.float32)}, raw=False)
        assert infer(channel, numbers).outputs[0].shape == [2, 5001]


def test_elements_that_protobuf_would_make() -> None:
    """A few bytes for each of many elements never reach the protobuf library."""
    with serving(settings=HttpSettings(max_objects=1000)) as (_, channel):
        head = message("ModelInferRequest", model_name="identity-bytes").SerializeToString()
        for field in (b"\x42\x00", b"\x08\x01", b"\x42\x81\x00x", b"\x88\x80\x00\x01"):
            contents = field * 20_000
            inner = b"\x2a" + varint(len(contents)) + contents
            body = head + b"\x2a" + varint(len(inner)) + inner
            with pytest.raises(grpc.RpcError) as caught:
                send(channel, f"/{SERVICE}/ModelInfer", body)
            assert isinstance(caught.value, grpc.Call)
            assert "typed contents" in str(caught.value.details())
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        broken_inside = head + b"\x2a" + varint(6000) + b"\x2a\xf0" + bytes(5998)
        with pytest.raises(grpc.RpcError) as caught:
            send(channel, f"/{SERVICE}/ModelInfer", broken_inside)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == INVALID


@pytest.mark.parametrize(("place", "parameters"), [(5, 4), (6, 2)])
def test_parameters_that_protobuf_would_make(place: int, parameters: int) -> None:
    """A few bytes for each of many parameters, of an input or of an output, are not read either."""
    with serving(settings=HttpSettings(max_objects=1000)) as (_, channel):
        request = infer_request("identity-fp32", {"x": two_rows([1])})
        tag = bytes([parameters << 3 | 2])
        entries = b"".join([tag + b"\x08\x0a\x06%06x" % number for number in range(20_000)])
        cut = request.SerializeToString() + bytes([place << 3 | 2]) + varint(len(entries)) + entries
        with pytest.raises(grpc.RpcError) as caught:
            send(channel, f"/{SERVICE}/ModelInfer", cut)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "too many" in str(caught.value.details())


def test_a_large_message_of_a_stream_asks_for_its_memory() -> None:
    """Where bodies are refused since memory is short, so is a large message of a stream.

    A small one is taken all the same, and a large one again when memory is there.
    """
    rows = np.zeros((1, 200_000), np.float32)
    large = infer_request("identity-fp32", {"x": rows})
    with serving() as (server, channel):
        assert server.server is not None
        memory = server.server.memory
        server.run(memory.refuse)
        talk = Talk(channel)
        talk.say(asking(1.0), large)
        assert value_of(talk.hear()) == 1.0
        assert talk.status() == grpc.StatusCode.UNAVAILABLE
        assert ("x-salver-code", "overloaded") in talk.call.trailing_metadata()
        server.run(memory.admit)
        again = Talk(channel)
        again.say(large)
        assert same(outputs_of(again.hear().infer_response)["y"], rows)
        again.end()
        assert again.status() == grpc.StatusCode.OK


def test_calls_without_tensors_are_small(channel: grpc.Channel) -> None:
    """A message of megabytes is not read where a name is expected."""
    described = message("ModelMetadataRequest", name="x" * 5_000_000)
    assert refused(channel, f"{SERVICE}/ModelMetadata", described) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "body_too_large",
    )


@pytest.mark.parametrize("encoding", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_answers_are_compressed_for_clients_that_compress(
    server: RunningServer, encoding: grpc.Compression
) -> None:
    """Long answers come as short as the question did, short ones and others as they are."""
    name = {grpc.Compression.Gzip: b"gzip", grpc.Compression.Deflate: b"deflate"}[encoding]
    for size, compression, expected in (
        (10_000, encoding, 1),
        (10, encoding, 0),
        (10_000, grpc.Compression.NoCompression, 0),
    ):
        sent = np.full((1, size), 1.5, np.float32)
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            request = infer_request("identity-fp32", {"x": sent})
            response = infer(channel, request, compression=compression)
            assert same(outputs_of(response)["y"], sent)
        data = request.SerializeToString()
        flag, accepted = 0, b"identity, deflate, gzip"
        if compression is encoding:
            (data, *_), _ = deflate([data], name)
            flag = 1
        fields = {b"grpc-accept-encoding": accepted} | ({b"grpc-encoding": name} if flag else {})
        head, body = raw_call(server.port, PREFIX.pack(flag, len(data)) + data, fields)
        assert head["grpc-accept-encoding"] == "identity,deflate,gzip"
        compressed, length = PREFIX.unpack_from(body)
        assert (compressed, length) == (expected, len(body) - PREFIX.size)
        assert head.get("grpc-encoding", "").encode() == (name if flag else b"")
        # A client that does not say that it accepts the encoding gets its answer plain.
        _, body = raw_call(
            server.port,
            PREFIX.pack(flag, len(data)) + data,
            fields | {b"grpc-accept-encoding": b"identity"},
        )
        assert body[0] == 0


def raw_call(port: int, body: bytes, fields: dict[bytes, bytes]) -> tuple[dict[str, str], bytes]:
    """Send a ``ModelInfer`` in frames; return the head of the answer and its body."""
    head = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": f"/{SERVICE}/ModelInfer".encode(),
        b":authority": b"test",
        b"content-type": b"application/grpc",
        **fields,
    }
    with Wire(port) as wire:
        wire.send(wire.headers(1, head, ends=False))
        pieces = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
        wire.send(b"".join([f.frame(f.DATA, 0, 1, piece) for piece in pieces]))
        wire.send(f.frame(f.DATA, f.END_STREAM, 1))
        answer, data, _ = wire.answer(1)
        return answer, data


def test_unknown_encodings_are_told_the_known_ones(server: RunningServer) -> None:
    """A message in another encoding is unimplemented, and the answer says what is read."""
    body = PREFIX.pack(1, 3) + b"abc"
    head, _ = raw_call(server.port, body, {b"grpc-encoding": b"snappy"})
    assert head["grpc-status"] == str(grpc.StatusCode.UNIMPLEMENTED.value[0])
    assert head["grpc-accept-encoding"] == "identity,deflate,gzip"


def test_metadata_of_a_megabyte() -> None:
    """Metadata over the limit is refused with its code; other calls of the channel go on."""
    with serving() as (server, channel):
        held = held_call(server, channel, timeout=30)
        server.computer.hold = False
        request = infer_request("identity-fp32", {"x": two_rows([1])})
        for size in (40_000, 1_000_000):
            assert refusal(channel, request, metadata=[("x-large", "y" * size)]) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "headers_too_large",
            )
            assert infer(channel, request)
        server.release()
        assert held.result(timeout=10)


def test_keepalive_of_grpcio(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own pings are answered while a call waits, so that it keeps its connection."""
    pings = 0
    answer = ControlFrames.on_ping

    def counted(control: ControlFrames, flags: int, number: int, payload: bytes) -> None:
        nonlocal pings
        pings += not flags & f.ACK
        answer(control, flags, number, payload)

    monkeypatch.setattr(ControlFrames, "on_ping", counted)
    options = [
        ("grpc.keepalive_time_ms", 50),
        ("grpc.keepalive_timeout_ms", 2000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with (
        RunningServer() as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel,
    ):
        held = held_call(server, channel, timeout=30)
        until(lambda: pings >= 3)
        server.release()
        assert held.result(timeout=10)
        server.computer.hold = False
        assert infer(channel, infer_request("identity-fp32", {"x": two_rows([1])}))
