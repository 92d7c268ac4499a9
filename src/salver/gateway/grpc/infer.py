"""``ModelInfer``: from a message to the handlers, and from their answer to a message."""

from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from salver.core.context import Principal, RequestContext
from salver.core.errors import BodyTooLarge, InvalidRequest, SalverError, fault_of
from salver.core.exchange import Exchange
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.settings import HttpSettings
from salver.core.timing import Timing
from salver.gateway.auth import check_access
from salver.gateway.grpc.call import Call
from salver.gateway.grpc.framing import Buffer, timeout_ns
from salver.gateway.grpc.response import encode
from salver.gateway.grpc.schema import message_class
from salver.gateway.grpc.tensors import inputs_of
from salver.gateway.grpc.wire import split_raw
from salver.gateway.h2.headers import literal
from salver.gateway.oip.decode import Decoded
from salver.gateway.oip.infer import Inference
from salver.gateway.triton.parameters import custom_parameters
from salver.observe.logs import get_logger

log = get_logger(__name__)

PROTOCOL = "grpc"


class GrpcAnswer(msgspec.Struct, eq=False):
    """Responder of one ``ModelInfer``."""

    owner: Inference
    call: Call
    endpoint: str
    context: RequestContext
    is_typed: bool = False
    counted: bool = False
    finished: bool = False
    request: InferenceRequest | None = None

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Answer."""
        if self.finished:
            return
        if not final:
            self.fail(InvalidRequest("this model answers in chunks; ask it with ModelStreamInfer"))
            self.context.cancel()
            return
        context = self.context
        try:
            parts = encode(self.endpoint, context, response, is_typed=self.is_typed)
            self.call.reply(parts, literal(b"x-salver-variant", context.variant.encode()))
        except Exception as error:  # a fault of ours must still be answered
            log.exception("answer_failed", request_id=context.request_id)
            self.fail(fault_of(error))
        else:
            self.finish("", response.timing)

    def fail(self, error: SalverError) -> None:
        """Answer with a coded status."""
        if not self.finished:
            self.call.fail(error)
            self.finish(error.code, None)

    def gone(self) -> None:
        """The client gave up; whoever holds the work is told."""
        self.finish("cancelled", None)
        self.context.cancel()

    def finish(self, code: str, timing: Timing | None) -> None:
        """Give back what was taken, and record what became of the call."""
        context, owner = self.context, self.owner
        self.finished = True
        if self.counted:
            self.counted = False
            context.principal.in_flight -= 1
            owner.open_count -= 1
        total_ns = owner.clock.monotonic_ns() - context.arrival_ns
        exchange = Exchange(context, self.endpoint, PROTOCOL, code, total_ns, timing)
        form = None if self.request is None else self.request.form
        if form is not None:
            exchange.rows = form.rows
        owner.ring.append(exchange)


class GrpcInference:
    """Turns calls into requests of the same handlers that REST asks."""

    def __init__(self, inference: Inference, settings: HttpSettings) -> None:
        self._inference = inference
        self._settings = settings
        self.max_timeout_ns = round(settings.max_request_timeout_s * 1e9)

    def __call__(self, call: Call, principal: Principal, body: Buffer) -> InferenceRequest | None:
        """Answer one call, now or later.

        Returns the request if it came raw and was in order. Raises ``InvalidRequest`` for bytes
        that are no message, and ``BodyTooLarge``.
        """
        rest, raw = split_raw(body)
        if len(rest) > self._settings.max_json_bytes:
            raise BodyTooLarge(
                f"{len(rest)} bytes besides raw tensors are over the limit of "
                f"{self._settings.max_json_bytes}; send tensors in raw_input_contents"
            )
        message = parse("inference.ModelInferRequest", rest)
        try:
            check_access(principal, message.model_name)
            self._inference.known(message.model_name, principal.tenant)
            decoded = self._decoded(message, raw)
        except SalverError as error:
            self._refuse(call, principal, message.model_name, error)
            return None
        self.ask(call, principal, decoded, is_typed=not raw)
        return decoded.request if raw and decoded.caller_id is None else None

    def ask(self, call: Call, principal: Principal, decoded: Decoded, *, is_typed: bool) -> None:
        """Ask the handlers for a call whose message has been read."""
        stream, name = call.stream, decoded.request.endpoint
        context = RequestContext(call.request_id, principal, stream.begun_ns, 0)
        answer = GrpcAnswer(self._inference, call, name, context)
        answer.request, answer.is_typed = decoded.request, is_typed
        try:
            check_access(principal, name)
            principal.in_flight += 1
            self._inference.open_count += 1
            answer.counted = True
            endpoint = self._inference.known(name, principal.tenant)
            self._inference.fill(context, decoded, endpoint)
            self._limit(context, stream.fields.get(b"grpc-timeout"))
            trace = stream.fields.get(b"traceparent")
            context.traceparent = None if trace is None else trace.decode("latin-1")
            stream.on_gone = answer.gone
            self._inference.handler(decoded.request, context, answer)
        except SalverError as error:
            answer.fail(error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("inference_failed", request_id=call.request_id)
            answer.fail(fault_of(error))

    def _refuse(self, call: Call, principal: Principal, name: str, error: SalverError) -> None:
        """Answer a call that no handler is asked, and record it."""
        context = RequestContext(call.request_id, principal, call.stream.begun_ns, 0)
        GrpcAnswer(self._inference, call, name, context).fail(error)

    def _decoded(self, message: Any, raw: list[memoryview]) -> Decoded:
        request = InferenceRequest(
            message.model_name,
            inputs_of(message, raw, self._settings),
            message.model_version or None,
            tuple([output.name for output in message.outputs]) or None,
            custom_parameters(_parameters(message.parameters)),
        )
        return Decoded(request, message.id or None)

    def _limit(self, context: RequestContext, value: bytes | None) -> None:
        """Let the caller's own deadline count, within what the server allows."""
        if value is not None:
            limit_ns = min(timeout_ns(value), self.max_timeout_ns)
            context.deadline_ns = context.arrival_ns + limit_ns


def parse(name: str, data: Buffer) -> Any:
    """Return a message; raises ``InvalidRequest`` for bytes that are none."""
    try:
        return message_class(name).FromString(bytes(data))
    except DecodeError as error:
        raise InvalidRequest(f"the message is not a {name}: {error}"[:200]) from error


def _parameters(given: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is not None:
            parameters[name] = getattr(value, choice)
    return parameters
