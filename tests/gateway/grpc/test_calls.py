"""The six calls of the protocol and health, asked by the real gRPC library."""

import contextlib
import hashlib
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salver.core.datatypes import DTYPES
from salver.core.settings import HttpSettings
from salver.gateway.grpc.schema import message_class
from tests.gateway.grpc.calls import (
    SERVICE,
    call,
    infer,
    infer_request,
    message,
    outputs_of,
    refusal,
    refused,
    same,
    two_rows,
)
from tests.gateway.inprocess import DATATYPES, RunningServer

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[tuple[RunningServer, grpc.Channel]]:
    """Give a server with options of its own, and a channel to it."""
    with (
        RunningServer(**options) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield server, channel


def test_the_server_is_there(channel: grpc.Channel) -> None:
    """It lives, is ready, and says who it is."""
    assert call(channel, f"{SERVICE}/ServerLive", message("ServerLiveRequest")).live
    assert call(channel, f"{SERVICE}/ServerReady", message("ServerReadyRequest")).ready
    described = call(channel, f"{SERVICE}/ServerMetadata", message("ServerMetadataRequest"))
    assert described.name == "salver"
    assert {"binary_tensor_data", "statistics"} <= set(described.extensions)


def test_health(channel: grpc.Channel) -> None:
    """Probes of grpc.health.v1 see a serving server; a service that is not here is not found."""
    request = message_class("grpc.health.v1.HealthCheckRequest")
    assert call(channel, "grpc.health.v1.Health/Check", request()).status == 1
    assert call(channel, "grpc.health.v1.Health/Check", request(service=SERVICE)).status == 1
    assert refused(channel, "grpc.health.v1.Health/Check", request(service="x"))[0] == (
        grpc.StatusCode.NOT_FOUND
    )


def test_models_are_described(channel: grpc.Channel) -> None:
    """Names, datatypes and shapes are those of REST; unknown ones are not found."""
    request = message("ModelMetadataRequest", name="two")
    described = call(channel, f"{SERVICE}/ModelMetadata", request)
    assert [(t.name, t.datatype, list(t.shape)) for t in described.inputs] == [
        ("a", "FP32", [-1]),
        ("b", "FP32", [-1]),
    ]
    assert (list(described.versions), described.platform) == (["1"], "test")
    ready = message("ModelReadyRequest", name="two", version="1")
    assert call(channel, f"{SERVICE}/ModelReady", ready).ready
    loading = message("ModelReadyRequest", name="loading")
    assert not call(channel, f"{SERVICE}/ModelReady", loading).ready
    for name, version in (("none", ""), ("two", "9")):
        asked = message("ModelReadyRequest", name=name, version=version)
        assert refused(channel, f"{SERVICE}/ModelReady", asked)[0] == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype(channel: grpc.Channel, datatype: str, *, raw: bool) -> None:
    """Raw and typed contents give back what was sent, in the way it was sent."""
    if datatype == "BYTES":
        array: Any = np.array([[b"a", "é".encode()], [b"", b"\x00\xff"]], object)
    else:
        array = np.array([[0, 1], [1, 0]], DTYPES[datatype])
    request = infer_request(f"identity-{datatype.lower()}", {"x": array}, raw=True, id="mine")
    if not raw and datatype != "FP16":
        request = infer_request(f"identity-{datatype.lower()}", {"x": array}, raw=False, id="mine")
        response = infer(channel, request)
        field = response.outputs[0].contents.ListFields()[0][1]
        assert list(field) == array.ravel().tolist()
        assert not response.raw_output_contents
    else:
        response = infer(channel, request)
        assert same(outputs_of(response)["y"], array)
    assert (response.id, response.model_name, response.model_version) == (
        "mine",
        f"identity-{datatype.lower()}",
        "1",
    )


@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=40),
    name=st.text(max_size=20),
)
@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_values(channel: grpc.Channel, values: list[float], name: str) -> None:
    """Numbers pass bit for bit, NaN and infinity too, and ids come back as they were."""
    array = two_rows(values)
    response = infer(channel, infer_request("identity-fp32", {"x": array}, id=name))
    assert outputs_of(response)["y"].tobytes() == array.tobytes()
    assert response.id == name


def test_several_inputs_and_chosen_outputs(channel: grpc.Channel) -> None:
    """Raw contents belong to the inputs in their order; outputs come as they were asked for."""
    inputs = {"a": np.array([3], np.float32), "b": np.array([1], np.float32)}
    request = infer_request("two", inputs)
    assert {name: float(v[0]) for name, v in outputs_of(infer(channel, request)).items()} == {
        "sum": 4.0,
        "difference": 2.0,
    }
    # One that is named twice is given once, as over HTTP.
    for _ in range(2):
        request.outputs.add(name="difference")
        assert list(outputs_of(infer(channel, request))) == ["difference"]


def test_large_tensors(channel: grpc.Channel) -> None:
    """19 MB there and back, through windows and frames of any size."""
    array = np.random.default_rng(1).random((1, 4_816_896), np.float32)
    response = infer(channel, infer_request("identity-fp32", {"x": array}), timeout=60)
    assert same(outputs_of(response)["y"], array)


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages(server: RunningServer, algorithm: grpc.Compression) -> None:
    """gzip and deflate are understood."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", compression=algorithm) as channel:
        array = np.zeros((1, 5000), np.float32)
        response = infer(channel, infer_request("identity-fp32", {"x": array}))
        assert same(outputs_of(response)["y"], array)


def broken(**changes: Any) -> Any:
    """Return a request of one row with something wrong."""
    request = infer_request("identity-fp32", {"x": two_rows([1, 2])})
    for name, value in changes.items():
        if name == "shape":
            del request.inputs[0].shape[:]
            request.inputs[0].shape.extend(value)
        elif name == "raw":
            request.raw_input_contents[:] = value
        elif name == "contents":
            request.inputs[0].contents.fp32_contents.extend(value)
        elif name == "no_inputs":
            del request.inputs[:]
        elif name == "outputs":
            for output in value:
                request.outputs.add(name=output)
        elif name in ("model_name", "model_version"):
            setattr(request, name, value)
        else:
            setattr(request.inputs[0], name, value)
    return request


WRONG: dict[str, tuple[Any, grpc.StatusCode, str]] = {
    "raw contents too short": (broken(raw=[b"1234"]), INVALID, "invalid_tensor"),
    "raw contents too long": (broken(raw=[bytes(12)]), INVALID, "invalid_tensor"),
    "raw contents for nobody": (broken(raw=[bytes(8), b""]), INVALID, "invalid_request"),
    "both kinds of contents": (broken(contents=[1.0, 2.0]), INVALID, "invalid_request"),
    "no contents": (broken(raw=[]), INVALID, "invalid_tensor"),
    "no inputs": (broken(no_inputs=True, raw=[]), INVALID, "invalid_request"),
    "a negative dimension": (broken(shape=[1, -2]), INVALID, "invalid_tensor"),
    "dimensions that overflow": (broken(shape=[2**62, 2**62, 8]), INVALID, "invalid_tensor"),
    "too many dimensions": (broken(shape=[1] * 40), INVALID, "invalid_tensor"),
    "an unknown datatype": (broken(datatype="FP128"), INVALID, "invalid_tensor"),
    "another datatype": (broken(datatype="INT32"), INVALID, "invalid_tensor"),
    "an unknown input": (broken(name="z"), INVALID, "unknown_input"),
    "no name": (broken(name=""), INVALID, "invalid_request"),
    "an unknown output": (broken(outputs=["q"]), INVALID, "unknown_output"),
    "a name that no model has": (broken(model_name="a b"), INVALID, "invalid_name"),
    "a long name": (broken(model_name="m" * 5000), INVALID, "invalid_name"),
    "a long input": (broken(name="x" * 5000), INVALID, "unknown_input"),
    "a long output": (broken(outputs=["y" * 5000]), INVALID, "unknown_output"),
    "a long datatype": (broken(datatype="F" * 5000), INVALID, "invalid_tensor"),
    "a long version": (
        broken(model_version="9" * 5000),
        grpc.StatusCode.NOT_FOUND,
        "version_not_found",
    ),
    "an unknown model": (
        broken(model_name="none"),
        grpc.StatusCode.NOT_FOUND,
        "endpoint_not_found",
    ),
    "an unknown version": (
        broken(model_version="9"),
        grpc.StatusCode.NOT_FOUND,
        "version_not_found",
    ),
    "a model that is loading": (
        broken(model_name="loading"),
        grpc.StatusCode.UNAVAILABLE,
        "not_ready",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_requests_say_what_is_wrong(channel: grpc.Channel, case: str) -> None:
    """Each has the gRPC status and the code that REST has, and the next call is answered."""
    request, status, code = WRONG[case]
    assert refusal(channel, request) == (status, code)
    assert infer(channel, infer_request("identity-fp32", {"x": two_rows([1])}))


def test_typed_contents_that_do_not_fit(channel: grpc.Channel) -> None:
    """A number beyond its datatype, and values in another datatype's field."""
    request = message("ModelInferRequest", model_name="identity-int8")
    added = request.inputs.add(name="x", datatype="INT8", shape=[1, 1])
    added.contents.int_contents.append(300)
    assert refusal(channel, request) == (INVALID, "invalid_tensor")
    added.contents.Clear()
    added.contents.fp32_contents.append(1.0)
    assert refusal(channel, request) == (INVALID, "invalid_tensor")
    half = message("ModelInferRequest", model_name="identity-fp16")
    half.inputs.add(name="x", datatype="FP16", shape=[1, 1]).contents.fp32_contents.append(1.0)
    assert refusal(channel, half) == (INVALID, "invalid_tensor")


def send(channel: grpc.Channel, path: str, body: bytes, **options: Any) -> bytes:
    """Send bytes as a message."""
    answer: bytes = channel.unary_unary(path)(body, timeout=10, **options)
    return answer


# Groups of a field that nobody knows, each inside the one before: what reads by calling itself
# would run out of stack.
NESTED = b"\x7b" * 10_000 + b"\x7c" * 10_000


@pytest.mark.parametrize(
    "body",
    [
        b"\xff" * 40,
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x3a\x85\x80\x80\x80\x10abc",
        b"\x0b\x0c",
        b"\x00",
        b"\x0a\x0didentity-fp32" + NESTED,
        # The same inside an input: its field, the length in three bytes.
        b"\x0a\x0didentity-fp32\x2a\xa0\x9c\x01" + NESTED,
    ],
    ids=[
        "no message", "a length past the end", "raw past the end", "groups", "zero",
        "nested", "nested in an input",
    ],
)  # fmt: skip
def test_bytes_that_are_no_message(channel: grpc.Channel, body: bytes) -> None:
    """They are the caller's error, and nothing else happens."""
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, f"/{SERVICE}/ModelInfer", body)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == INVALID
    assert infer(channel, infer_request("identity-fp32", {"x": two_rows([1])}))


def test_groups_that_nobody_knows(channel: grpc.Channel) -> None:
    """A call without tensors leaves out a few, as any unknown field; thousands are refused."""
    asked = message("ModelConfigRequest", name="identity-fp32").SerializeToString()
    path = f"/{SERVICE}/ModelConfig"
    assert send(channel, path, asked + b"\x7b" * 10 + b"\x7c" * 10)
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, path, asked + NESTED)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == INVALID
    assert send(channel, path, asked)


def test_text_with_lengths_past_the_end(channel: grpc.Channel) -> None:
    """BYTES whose own lengths do not add up are refused."""
    request = message("ModelInferRequest", model_name="identity-bytes")
    request.inputs.add(name="x", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(b"\xff\xff\xff\x7fabc")
    assert refusal(channel, request) == (INVALID, "invalid_tensor")


def test_unknown_calls(channel: grpc.Channel) -> None:
    """A method that is not here is unimplemented."""
    for path in (f"/{SERVICE}/Nothing", "/other.Service/Call", "/"):
        with pytest.raises(grpc.RpcError) as caught:
            send(channel, path, b"")
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def held_call(
    server: RunningServer, channel: grpc.Channel, message_s: float = 0.0, **options: Any
) -> Any:
    """Begin a call that the model does not answer."""
    server.computer.hold = True
    request = infer_request("identity-fp32", {"x": two_rows([1])})
    if message_s:
        request.parameters["timeout"].int64_param = round(message_s * 1e6)
    before = len(server.computer.waiting)
    future = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=lambda sent: sent.SerializeToString(),
        response_deserializer=message_class("inference.ModelInferResponse").FromString,
    ).future(request, **options)
    deadline = time.monotonic() + 10
    while len(server.computer.waiting) == before:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return future


def test_cancelling_reaches_the_work() -> None:
    """A call that its client cancels is cancelled where it waits."""
    with serving() as (server, channel):
        held_call(server, channel, timeout=30).cancel()
        until_cancelled(server)


def until_cancelled(server: RunningServer) -> None:
    """Wait until the newest request is cancelled."""
    deadline = time.monotonic() + 10
    while not server.computer.contexts[-1].cancelled:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_deadlines_travel() -> None:
    """``grpc-timeout`` becomes the request's deadline, bounded by the server's longest."""
    settings_ = HttpSettings(max_request_timeout_s=50.0)
    with serving(settings=settings_) as (server, channel):
        for timeout_s, expected_s in ((5.0, 5.0), (5000.0, 50.0), (None, 30.0)):
            future = held_call(server, channel, timeout=timeout_s)
            context = server.computer.contexts[-1]
            given_s = (context.deadline_ns - context.arrival_ns) / 1e9
            assert abs(given_s - expected_s) < 1.0
            server.release()
            assert future.result(timeout=10)


@pytest.mark.parametrize(("call_s", "message_s"), [(20.0, 2.0), (2.0, 20.0)])
def test_of_two_deadlines_the_earlier_counts(call_s: float, message_s: float) -> None:
    """``grpc-timeout`` and the parameter ``timeout`` are both the caller's own."""
    with serving() as (server, channel):
        future = held_call(server, channel, timeout=call_s, message_s=message_s)
        context = server.computer.contexts[-1]
        assert abs((context.deadline_ns - context.arrival_ns) / 1e9 - 2.0) < 1.0
        server.release()
        assert future.result(timeout=10)


def test_traces_and_ids_are_answered(server: RunningServer, channel: grpc.Channel) -> None:
    """Every answer names its request and variant; a trace is passed on."""
    trace = f"00-{1:032x}-{2:016x}-01"
    request = infer_request("identity-fp32", {"x": two_rows([1])})
    invoke = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=lambda sent: sent.SerializeToString(),
        response_deserializer=message_class("inference.ModelInferResponse").FromString,
    )
    _, made = invoke.with_call(request, timeout=10, metadata=[("traceparent", trace)])
    fields = dict(made.initial_metadata())
    assert len(fields["x-salver-request-id"]) == 40
    assert fields["x-salver-variant"] == "identity-fp32:1"
    assert server.computer.contexts[-1].traceparent == trace


def test_keys(tmp_path: Path) -> None:
    """Without a key nobody is served; with one, only what it may call, and within its quota."""
    key = "k" * 43
    digest = hashlib.sha256(key.encode()).hexdigest()
    keys = tmp_path / "keys.yaml"
    keys.write_text(
        f"keys:\n- {{sha256: '{digest}', principal: p, endpoints: [two], max_in_flight: 1}}\n"
    )
    with serving(keys=keys) as (_, channel):
        request = infer_request("two", {n: np.array([1], np.float32) for n in "ab"})
        unauthenticated = grpc.StatusCode.UNAUTHENTICATED
        assert refusal(channel, request)[0] == unauthenticated
        allowed = [("authorization", f"Bearer {key}")]
        assert infer(channel, request, metadata=allowed)
        other = infer_request("identity-fp32", {"x": two_rows([1])})
        assert refusal(channel, other, metadata=allowed)[0] == grpc.StatusCode.PERMISSION_DENIED
        assert call(channel, f"{SERVICE}/ServerLive", message("ServerLiveRequest")).live
        described = message("ServerMetadataRequest")
        assert refused(channel, f"{SERVICE}/ServerMetadata", described)[0] == unauthenticated


def test_many_callers_get_their_own(server: RunningServer) -> None:
    """Answers of calls that share a connection are never mixed."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        wrong: list[float] = []

        def ask(first: int) -> None:
            for value in range(first, first + 50):
                request = infer_request("identity-fp32", {"x": two_rows([value])}, id=str(value))
                response = infer(channel, request)
                if outputs_of(response)["y"][0, 0] != value or response.id != str(value):
                    wrong.append(value)

        threads = [threading.Thread(target=ask, args=(100 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_failing_model(channel: grpc.Channel) -> None:
    """A model's failure is internal and says so; NaN is a number on this door."""
    request = infer_request("identity-fp32", {"x": two_rows([math.nan])})
    assert math.isnan(outputs_of(infer(channel, request))["y"][0, 0])
    request.parameters["fail"].bool_param = True
    assert refusal(channel, request) == (grpc.StatusCode.INTERNAL, "model_failed")
