"""Finds what a call asks for, reads its message, and answers; other streams are REST."""

from salver.core.context import ANONYMOUS
from salver.core.errors import InvalidRequest, SalverError, UnsupportedOperation, fault_of
from salver.core.ids import RequestIds
from salver.core.settings import HttpSettings
from salver.gateway.auth import Keys
from salver.gateway.grpc.call import Call
from salver.gateway.grpc.framing import PREFIX, expected_bytes, only_message
from salver.gateway.grpc.infer import GrpcInference, parse
from salver.gateway.grpc.schema import request_name
from salver.gateway.grpc.services.health import HealthService
from salver.gateway.grpc.services.inference import InferenceService
from salver.gateway.grpc.services.table import Unaries
from salver.gateway.grpc.services.triton import TritonService
from salver.gateway.h2.connection import Application, Http2Connection
from salver.gateway.h2.stream import Stream
from salver.gateway.oip.routes import Directory
from salver.gateway.triton.documents import Documents
from salver.observe.logs import get_logger

log = get_logger(__name__)

_CONTENT_TYPE = b"application/grpc"
_INFER = b"/inference.GRPCInferenceService/ModelInfer"


class GrpcApplication:
    """Application of HTTP/2 connections: gRPC calls here, everything else to ``rest``."""

    def __init__(
        self,
        rest: Application,
        infer: GrpcInference,
        services: Unaries,
        keys: Keys,
        ids: RequestIds,
        settings: HttpSettings,
    ) -> None:
        self._rest = rest
        self._infer = infer
        self._unaries = services
        self._keys = keys
        self._ids = ids
        self._limit_bytes = settings.max_body_bytes
        self._inflated_bytes = settings.max_inflated_bytes

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
        call = Call(connection, stream, self._ids.make())
        try:
            self._answer(call)
        except SalverError as error:
            call.fail(error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("call_failed", request_id=call.request_id)
            call.fail(fault_of(error))

    def refuse(self, connection: Http2Connection, stream: Stream, error: SalverError) -> None:
        """Answer a call whose message could not be read to its end."""
        if _is_call(stream):
            Call(connection, stream, self._ids.make()).fail(error)
        else:
            self._rest.refuse(connection, stream, error)

    def _answer(self, call: Call) -> None:
        fields = call.stream.fields
        path = fields[b":path"]
        if fields[b":method"] != b"POST":
            raise InvalidRequest("a call is a POST")
        name = path[1:].decode("latin-1")
        unary = self._unaries.get(name)
        if unary is None and path != _INFER:
            raise UnsupportedOperation(f"no such call: {name[:200]}")
        body = only_message(call.stream.body.whole(), fields, self._inflated_bytes)
        if unary is None:
            self._infer(call, self._keys.identify(fields), body)
            return
        # Probes need no key, as on the paths of REST.
        principal = ANONYMOUS if unary.is_open else self._keys.identify(fields)
        answer = unary.act(parse(request_name(name), body), principal)
        call.reply((answer.SerializeToString(),))


def _is_call(stream: Stream) -> bool:
    return stream.fields.get(b"content-type", b"").startswith(_CONTENT_TYPE)


def unaries(directory: Directory, documents: Documents) -> Unaries:
    """Return the calls of all services but inference itself."""
    return {
        **InferenceService(directory).unaries,
        **TritonService(documents).unaries,
        **HealthService(directory).unaries,
    }
