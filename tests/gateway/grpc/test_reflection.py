"""What tools learn from the server itself, and health that is watched."""

import gzip
import time
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from salver.core.settings import Http2Settings
from salver.gateway.grpc.framing import PREFIX, framed
from salver.gateway.grpc.schema import files, message_class
from salver.gateway.grpc.services.health import HealthService
from salver.gateway.grpc.services.table import SMALL_CALL_BYTES
from tests.gateway.grpc.calls import SERVICE
from tests.gateway.grpc.test_calls import serving
from tests.gateway.grpc.test_streams import CALL, data, packed
from tests.gateway.h2.wire import Wire
from tests.gateway.inprocess import RunningServer

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


def reflect(channel: grpc.Channel, version: str, *requests: dict[str, Any]) -> list[Any]:
    """Ask questions on one stream, and return the answers."""
    package = f"grpc.reflection.{version}"
    request = message_class(f"{package}.ServerReflectionRequest")
    ask = channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=lambda sent: sent.SerializeToString(),
        response_deserializer=message_class(f"{package}.ServerReflectionResponse").FromString,
    )
    return list(ask(iter([request(host="here", **one) for one in requests]), timeout=20))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_services_are_listed(channel: grpc.Channel, version: str) -> None:
    """All that can be called is named, in both versions of reflection."""
    (answer,) = reflect(channel, version, {"list_services": ""})
    assert [one.name for one in answer.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        SERVICE,
    ]
    assert (answer.valid_host, answer.original_request.host) == ("here", "here")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_a_client_can_live_on_what_it_is_told(channel: grpc.Channel, version: str) -> None:
    """Classes made of the descriptions alone ask the server, and see its enumerations by name."""
    asked = [
        {"file_containing_symbol": SERVICE},
        {"file_containing_symbol": "grpc.health.v1.HealthCheckResponse.ServingStatus"},
    ]
    pool = descriptor_pool.DescriptorPool()
    for answer in reflect(channel, version, *asked):
        (described,) = answer.file_descriptor_response.file_descriptor_proto
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(described))
    for path in (f"{SERVICE}/ModelConfig", "grpc.health.v1.Health/Check"):
        service, _, name = path.partition("/")
        method = pool.FindServiceByName(service).FindMethodByName(name)
        request = message_factory.GetMessageClass(method.input_type)()
        if name == "ModelConfig":
            request.name = "two"
        response = channel.unary_unary(
            f"/{path}",
            request_serializer=lambda sent: sent.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )(request, timeout=10)
        assert ("SERVING" if name == "Check" else 'name: "two"') in str(response)
    streaming = pool.FindServiceByName(SERVICE).FindMethodByName("ModelStreamInfer")
    assert (streaming.client_streaming, streaming.server_streaming) == (True, True)


def test_files_and_symbols(channel: grpc.Channel) -> None:
    """A file is found by its name and by everything in it; the answers keep their order."""
    names = [file.name for file in files().values()]
    symbols = [
        f"{SERVICE}.ModelInfer",
        "inference.ModelInferRequest",
        "inference.ModelInferRequest.InferInputTensor",
        "inference.ModelInferRequest.model_name",
        "inference.DataType",
    ]
    answers = reflect(
        channel,
        "v1",
        *({"file_by_filename": name} for name in names),
        *({"file_containing_symbol": symbol} for symbol in symbols),
    )
    found = []
    for answer in answers:
        (described,) = answer.file_descriptor_response.file_descriptor_proto
        found.append(descriptor_pb2.FileDescriptorProto.FromString(described).name)
    assert found == [*names, *["open_inference_grpc.proto"] * len(symbols)]


def test_what_is_not_there(channel: grpc.Channel) -> None:
    """Unknown names and questions about extensions are answered with an error, and others go on."""
    extension = message_class("grpc.reflection.v1.ExtensionRequest")(containing_type="x")
    answers = reflect(
        channel,
        "v1",
        {"file_by_filename": "none.proto"},
        {"file_containing_symbol": "y" * 5000},
        {"file_containing_extension": extension},
        {"all_extension_numbers_of_type": "x"},
        {},
        {"list_services": ""},
    )
    codes = [answer.error_response.error_code for answer in answers]
    assert codes == [5, 5, 12, 12, 12, 0]
    assert len(answers[1].error_response.error_message) < 300


def watch(channel: grpc.Channel, service: str = "") -> Any:
    """Begin to watch a service."""
    return channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=lambda sent: sent.SerializeToString(),
        response_deserializer=message_class("grpc.health.v1.HealthCheckResponse").FromString,
    )(message_class("grpc.health.v1.HealthCheckRequest")(service=service), timeout=30)


def test_health_is_watched() -> None:
    """The status is told at once, and again when it is another."""
    with serving() as (server, channel):
        watching, same = watch(channel), watch(channel, SERVICE)
        for expected in (SERVING, NOT_SERVING, SERVING):
            server.serving = expected == SERVING
            assert next(watching).status == next(same).status == expected
        watching.cancel()
        same.cancel()


def test_an_unknown_service_is_watched(channel: grpc.Channel) -> None:
    """It may come one day, so the call stays open."""
    watching = watch(channel, "nothing")
    assert next(watching).status == SERVICE_UNKNOWN
    assert watching.is_active()
    watching.cancel()


def test_watching_ends_with_the_server() -> None:
    """When the gateway drains, watchers are told and their calls end well."""
    with serving() as (server, channel):
        watching = watch(channel)
        assert next(watching).status == SERVING
        server.serving = False
        assert server.server is not None
        server.begin(server.server.drain(20)).result(timeout=20)
        assert [one.status for one in watching] == [NOT_SERVING]
        assert watching.code() == grpc.StatusCode.OK
        assert server.server.connections == 0


def health_of(server: RunningServer) -> HealthService:
    """Return the service that a server watches with."""
    watched = server.services.unaries["grpc.health.v1.Health/Check"].act
    service: HealthService = getattr(watched, "__self__")  # noqa: B009 - a bound method
    return service


def test_what_is_known_is_not_told_again() -> None:
    """However often it is looked, only a change is sent."""
    with serving() as (server, channel):
        watching = watch(channel)
        assert next(watching).status == SERVING
        for _ in range(5):
            server.run(health_of(server)._look)
        server.serving = False
        assert next(watching).status == NOT_SERVING
        watching.cancel()


def test_watchers_that_leave_are_forgotten() -> None:
    """Nothing is looked for when nobody watches any more."""
    with serving() as (server, channel):
        health = health_of(server)
        watchers = health._watchers
        calls = [watch(channel) for _ in range(5)]
        assert [next(one).status for one in calls] == [SERVING] * 5
        assert len(watchers) == 5
        for one in calls:
            one.cancel()
        deadline = time.monotonic() + 10
        while watchers:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert health._timer is None


def test_watchers_are_bounded() -> None:
    """One too many is refused and may ask again; those before it stay."""
    with serving() as (server, channel):
        health_of(server).max_watchers = 2
        calls = [watch(channel), watch(channel)]
        assert [next(one).status for one in calls] == [SERVING] * 2
        refused = watch(channel)
        with pytest.raises(grpc.RpcError):
            next(refused)
        assert refused.code() == grpc.StatusCode.UNAVAILABLE
        assert all(one.is_active() for one in calls)
        for one in calls:
            one.cancel()


def test_a_watcher_takes_one_message(server: RunningServer) -> None:
    """A second message is the caller's error."""
    fields = {**CALL, b":path": b"/grpc.health.v1.Health/Watch"}
    request = packed(message_class("grpc.health.v1.HealthCheckRequest")())
    with Wire(server.port) as wire:
        wire.send(wire.headers(1, fields, ends=False))
        wire.send(data(request + request))
        _, _, trailers = wire.answer(1)
    assert trailers["grpc-status"] == "3"


def test_a_watch_that_is_silent_ends() -> None:
    """A call on which nothing changed for very long ends, and its client watches again."""
    with serving(http2=Http2Settings(stream_idle_timeout_s=0.2)) as (_, channel):
        watching = watch(channel)
        with pytest.raises(grpc.RpcError):
            list(watching)
        assert watching.code() == grpc.StatusCode.DEADLINE_EXCEEDED


SMALL_CALLS = {
    b"/grpc.health.v1.Health/Watch": ("grpc.health.v1.HealthCheckRequest", "service"),
    b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": (
        "grpc.reflection.v1.ServerReflectionRequest",
        "file_by_filename",
    ),
}


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("path", SMALL_CALLS)
def test_messages_of_calls_without_tensors_are_small(
    server: RunningServer, path: bytes, *, is_compressed: bool
) -> None:
    """A name of megabytes ends the call before it is read, as it is sent or as it is inflated.

    The announced length alone is enough, so nothing is kept of what follows it.
    """
    kind, field = SMALL_CALLS[path]
    fields = {**CALL, b":path": path}
    sent = framed(SMALL_CALL_BYTES + 1)
    if is_compressed:
        request = message_class(kind)(**{field: "x" * SMALL_CALL_BYTES})
        body = gzip.compress(request.SerializeToString())
        assert len(body) < 16_000
        sent, fields[b"grpc-encoding"] = PREFIX.pack(1, len(body)) + body, b"gzip"
    with Wire(server.port) as wire:
        wire.send(wire.headers(1, fields, ends=False))
        wire.send(data(sent))
        head, _, trailers = wire.answer(1)
    ended = {**head, **trailers}
    assert (ended["grpc-status"], ended["x-salver-code"]) == ("8", "body_too_large")
