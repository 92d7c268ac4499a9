"""Finds what a call asks for, reads its message, and answers; other streams are REST."""

from collections.abc import Callable
from typing import Any

from salver import __version__
from salver.core.context import ANONYMOUS, Principal
from salver.core.errors import (
    EndpointNotFound,
    InvalidRequest,
    NotReady,
    SalverError,
    UnsupportedOperation,
    fault_of,
)
from salver.core.ids import RequestIds
from salver.core.settings import HttpSettings
from salver.gateway.auth import Keys
from salver.gateway.grpc.call import Call
from salver.gateway.grpc.framing import PREFIX, expected_bytes, only_message
from salver.gateway.grpc.gather import CallGatherer
from salver.gateway.grpc.infer import GrpcInference, parse
from salver.gateway.grpc.schema import message_class, request_name
from salver.gateway.h2.connection import Application, Http2Connection
from salver.gateway.h2.stream import Stream
from salver.gateway.oip.metadata import EXTENSIONS, model_metadata, variant_of
from salver.gateway.oip.routes import Directory
from salver.observe.logs import get_logger

log = get_logger(__name__)

_CONTENT_TYPE = b"application/grpc"
_INFER = b"/inference.GRPCInferenceService/ModelInfer"
_SERVING, _NOT_SERVING = 1, 2

Unary = Callable[[Any, Principal], Any]


class GrpcApplication:
    """Application of HTTP/2 connections: gRPC calls here, everything else to ``rest``."""

    def __init__(
        self,
        rest: Application,
        infer: GrpcInference,
        directory: Directory,
        keys: Keys,
        ids: RequestIds,
        settings: HttpSettings,
        gather: CallGatherer | None = None,
    ) -> None:
        self._gather = gather
        self._rest = rest
        self._infer = infer
        self._directory = directory
        self._keys = keys
        self._ids = ids
        self._limit_bytes = settings.max_body_bytes
        self._inflated_bytes = settings.max_inflated_bytes
        inference = "inference.GRPCInferenceService"
        self._calls: dict[str, Unary] = {
            f"{inference}/ServerLive": self._live,
            f"{inference}/ServerReady": self._ready,
            f"{inference}/ModelReady": self._model_ready,
            f"{inference}/ServerMetadata": self._server,
            f"{inference}/ModelMetadata": self._model,
            "grpc.health.v1.Health/Check": self._health,
        }

    def begin(self, connection: Http2Connection, stream: Stream) -> None:
        """Pass on what is not a call."""
        if not _is_call(stream):
            self._rest.begin(connection, stream)

    def data(self, connection: Http2Connection, stream: Stream) -> None:
        """Learn from the first bytes how long the message is."""
        if not _is_call(stream):
            self._rest.data(connection, stream)
            return
        body = stream.body
        if body.is_open_ended:
            try:
                size = expected_bytes(body.first(PREFIX.size), self._limit_bytes)
            except SalverError as error:
                self.refuse(connection, stream, error)
                return
            if size is not None:
                body.expect(size)

    def complete(self, connection: Http2Connection, stream: Stream) -> None:
        """Answer a call."""
        if not _is_call(stream):
            self._rest.complete(connection, stream)
            return
        call = Call(connection, stream, "")
        try:
            if stream.fields[b":path"] == _INFER and stream.fields[b":method"] == b"POST":
                self._model_infer(call)
            else:
                call.request_id = self._ids.make()
                self._answer(call)
        except SalverError as error:
            self._fail(call, error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("call_failed", request_id=call.request_id)
            self._fail(call, fault_of(error))

    def _fail(self, call: Call, error: SalverError) -> None:
        call.request_id = call.request_id or self._ids.make()
        call.fail(error)

    def refuse(self, connection: Http2Connection, stream: Stream, error: SalverError) -> None:
        """Answer a call whose message could not be read to its end."""
        if _is_call(stream):
            Call(connection, stream, self._ids.make()).fail(error)
        else:
            self._rest.refuse(connection, stream, error)

    def _model_infer(self, call: Call) -> None:
        whole, fields = call.stream.body.whole(), call.stream.fields
        principal, gather = self._keys.identify(fields, call.connection.peer), self._gather
        if gather is not None and gather.add(call, principal, whole):
            return
        call.request_id = self._ids.make()
        body = only_message(whole, fields, self._inflated_bytes)
        request = self._infer(call, principal, body)
        if gather is not None and request is not None:
            gather.learn(whole, request)

    def _answer(self, call: Call) -> None:
        fields = call.stream.fields
        path = fields[b":path"]
        if fields[b":method"] != b"POST":
            raise InvalidRequest("a call is a POST")
        name = path[1:].decode("latin-1")
        act = self._calls.get(name)
        if act is None:
            raise UnsupportedOperation(f"no such call: {name[:200]}")
        body = only_message(call.stream.body.whole(), fields, self._inflated_bytes)
        # Probes need no key, as on the paths of REST.
        is_probe = act in (self._live, self._ready, self._health)
        peer = call.connection.peer
        principal = ANONYMOUS if is_probe else self._keys.identify(fields, peer)
        call.reply((act(parse(request_name(name), body), principal).SerializeToString(),))

    def _live(self, request: Any, principal: Principal) -> Any:
        del request, principal
        return message_class("inference.ServerLiveResponse")(live=True)

    def _ready(self, request: Any, principal: Principal) -> Any:
        del request, principal
        ready = self._directory.server_ready()
        return message_class("inference.ServerReadyResponse")(ready=ready)

    def _model_ready(self, request: Any, principal: Principal) -> Any:
        endpoint = self._directory.endpoint_for(request.name, principal)
        try:
            variant = variant_of(endpoint, request.version or None)
            ready = self._directory.variant_ready(variant.id)
        except NotReady:
            ready = False
        return message_class("inference.ModelReadyResponse")(ready=ready)

    def _server(self, request: Any, principal: Principal) -> Any:
        del request, principal
        return message_class("inference.ServerMetadataResponse")(
            name="salver", version=__version__, extensions=EXTENSIONS
        )

    def _model(self, request: Any, principal: Principal) -> Any:
        endpoint = self._directory.endpoint_for(request.name, principal)
        document = model_metadata(endpoint, variant_of(endpoint, request.version or None))
        response = message_class("inference.ModelMetadataResponse")(
            name=document["name"], versions=document["versions"], platform=document["platform"]
        )
        for side in ("inputs", "outputs"):
            for tensor in document[side]:
                getattr(response, side).add(
                    name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"]
                )
        return response

    def _health(self, request: Any, principal: Principal) -> Any:
        del principal
        if request.service not in ("", "inference.GRPCInferenceService"):
            raise EndpointNotFound(f"no service {request.service[:200]!r} here")
        serving = self._directory.server_ready()
        return message_class("grpc.health.v1.HealthCheckResponse")(
            status=_SERVING if serving else _NOT_SERVING
        )


def _is_call(stream: Stream) -> bool:
    kind = stream.fields.get(b"content-type", b"")
    return kind == _CONTENT_TYPE or kind.startswith((_CONTENT_TYPE + b"+", _CONTENT_TYPE + b";"))
