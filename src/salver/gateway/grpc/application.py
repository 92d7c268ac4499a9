"""Finds what a call asks for, reads its message, and answers; other streams are REST."""

from typing import Final

from salver.core.context import ANONYMOUS
from salver.core.errors import InvalidRequest, SalverError, UnsupportedOperation, fault_of
from salver.core.ids import RequestIds
from salver.gateway.auth import Keys
from salver.gateway.grpc.call import Call
from salver.gateway.grpc.dialogue import Dialogue, Limits
from salver.gateway.grpc.framing import PREFIX, expected_bytes, only_message
from salver.gateway.grpc.gather import CallGatherer
from salver.gateway.grpc.infer import GrpcInference, parse
from salver.gateway.grpc.schema import request_name
from salver.gateway.grpc.services.all import Services
from salver.gateway.grpc.services.table import SMALL_CALL_BYTES, Streaming
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.headers import Fields
from salver.gateway.h2.ports import Application
from salver.gateway.h2.stream import Stream
from salver.observe.logs import get_logger

log = get_logger(__name__)

_CONTENT_TYPE: Final = b"application/grpc"
_INFER: Final = b"/inference.GRPCInferenceService/ModelInfer"


class GrpcApplication:
    """Application of HTTP/2 connections: gRPC calls here, everything else to ``rest``."""

    def __init__(
        self,
        rest: Application,
        infer: GrpcInference,
        services: Services,
        keys: Keys,
        ids: RequestIds,
        limits: Limits,
        gather: CallGatherer | None = None,
    ) -> None:
        self._gather = gather
        self._rest = rest
        self._infer = infer
        self._unaries = services.unaries
        self._later = services.later
        self._streamings = {f"/{name}".encode(): one for name, one in services.streamings.items()}
        self._keys = keys
        self._ids = ids
        self._limits = limits
        self._inflated_bytes = limits.http.max_inflated_bytes

    def begin(self, connection: Http2Connection, stream: Stream) -> None:
        """Open a streaming call; others wait for their message."""
        if not _is_call(stream):
            self._rest.begin(connection, stream)
            return
        streaming = self._streamings.get(stream.fields[b":path"])
        if streaming is not None:
            self._open(connection, stream, streaming)
        elif stream.fields[b":path"] != _INFER:
            stream.limit_bytes = min(stream.limit_bytes, PREFIX.size + SMALL_CALL_BYTES)

    def data(self, connection: Http2Connection, stream: Stream) -> None:
        """Learn from the first bytes how long the message is."""
        if not _is_call(stream):
            self._rest.data(connection, stream)
            return
        body = stream.body
        if body.is_open_ended:
            try:
                size = expected_bytes(body.first(PREFIX.size), stream.limit_bytes)
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

    def _open(self, connection: Http2Connection, stream: Stream, streaming: Streaming) -> None:
        fields, request_id = stream.fields, self._ids.make()
        try:
            _check_method(fields)
            principal = (
                ANONYMOUS if streaming.is_open else self._keys.identify(fields, connection.peer)
            )
            limit_bytes = streaming.limit_bytes
            dialogue = Dialogue(connection, stream, request_id, self._limits, limit_bytes)
            dialogue.begin(streaming.open(dialogue, principal))
        except SalverError as error:
            Call(connection, stream, request_id).fail(error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("call_failed", request_id=request_id)
            Call(connection, stream, request_id).fail(fault_of(error))

    def _answer(self, call: Call) -> None:
        fields = call.stream.fields
        path = fields[b":path"]
        _check_method(fields)
        name = path[1:].decode("latin-1")
        unary, begin = self._unaries.get(name), self._later.get(name)
        if unary is None and begin is None:
            raise UnsupportedOperation(f"no such call: {name[:200]}")
        limit_bytes = min(self._inflated_bytes, SMALL_CALL_BYTES)
        body = only_message(call.stream.body.whole(), fields, limit_bytes)
        peer = call.connection.peer
        if unary is None:
            assert begin is not None
            principal = self._keys.identify(fields, peer)
            begin(parse(request_name(name), body), principal, call)
            return
        # Probes need no key, as on the paths of REST.
        principal = ANONYMOUS if unary.is_open else self._keys.identify(fields, peer)
        answer = unary.act(parse(request_name(name), body), principal)
        call.reply((answer.SerializeToString(),))


def _is_call(stream: Stream) -> bool:
    kind = stream.fields.get(b"content-type", b"")
    return kind == _CONTENT_TYPE or kind.startswith((_CONTENT_TYPE + b"+", _CONTENT_TYPE + b";"))


def _check_method(fields: Fields) -> None:
    if fields[b":method"] != b"POST":
        raise InvalidRequest("a call is a POST")
