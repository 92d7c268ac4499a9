"""``ModelInfer``: from a message to the handlers, and from their answer to a message."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from google.protobuf.message import DecodeError

from salver.core.context import Principal, RequestContext
from salver.core.errors import InvalidRequest, SalverError, fault_of
from salver.core.exchange import Exchange, keep_answer
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.settings import HttpSettings
from salver.core.timing import Timing
from salver.gateway.grpc.call import Call
from salver.gateway.grpc.framing import Buffer, timeout_ns
from salver.gateway.grpc.response import Notes, encode
from salver.gateway.grpc.schema import message_class
from salver.gateway.grpc.tensors import inputs_of
from salver.gateway.grpc.wire import split_raw
from salver.gateway.h2.headers import literal
from salver.gateway.h2.stream import Stream
from salver.gateway.oip.answer import recorded_name, tell
from salver.gateway.oip.content_types.asked import ContentTypes, read_content_types
from salver.gateway.oip.decode import Decoded
from salver.gateway.oip.infer import Inference, some_of
from salver.gateway.triton.classification import classified
from salver.gateway.triton.parameters import class_count, custom_parameters, tensor_parameters
from salver.observe.logs import get_logger

log = get_logger(__name__)

PROTOCOL = "grpc"
REQUEST = "inference.ModelInferRequest"


class Replies(Protocol):
    """Where the answer to one request goes; ``request_id`` is told with it where there is room."""

    request_id: str

    def reply(self, parts: Sequence[Buffer], fields: bytes = b"") -> None:
        """Answer with one message, in parts."""
        ...

    def fail(self, error: SalverError) -> None:
        """Answer with an error."""
        ...


class GrpcAnswer(msgspec.Struct, eq=False):
    """Responder of one request; how it answers chunks is up to the kind of call."""

    owner: Inference
    call: Replies
    endpoint: str
    context: RequestContext
    is_typed: bool = False
    counted: bool = False
    finished: bool = False
    request: InferenceRequest | None = None
    classes: dict[str, int] | None = None
    contents: ContentTypes | None = None

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Answer."""
        if self.finished:
            return
        if not final:
            self.fail(InvalidRequest("this model answers in chunks; ask it with ModelStreamInfer"))
            self.context.cancel()
            return
        if self.write(response):
            self.finish("", response.timing, response)

    def write(self, response: InferenceResponse, more: Sequence[Buffer] = ()) -> bool:
        """Send one message, with further fields behind it; False if that failed."""
        context = self.context
        try:
            if self.classes and response.outputs:
                response = self._classified(response, self.classes)
            notes: Notes = {}
            if self.contents is not None:
                outputs, notes = self.contents.encoded(response.outputs)
                response = InferenceResponse(outputs, response.timing, response.parameters)
            parts = encode(self.endpoint, context, response, notes, is_typed=self.is_typed)
            variant = literal(b"x-salver-variant", context.variant.encode())
            self.call.request_id = context.request_id
            self.call.reply((*parts, *more), variant)
        except SalverError as error:
            self.fail(error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("answer_failed", request_id=context.request_id)
            self.fail(fault_of(error))
        return not self.finished

    def _classified(
        self, response: InferenceResponse, classes: dict[str, int]
    ) -> InferenceResponse:
        endpoint = self.owner.find(self.endpoint)
        outputs = classified(response.outputs, classes, endpoint, self.context.variant)
        return InferenceResponse(outputs, response.timing, response.parameters)

    def fail(self, error: SalverError) -> None:
        """Answer with a coded status."""
        if not self.finished:
            self.call.request_id = self.context.request_id
            tell(self.call.fail, error, self.context.request_id)
            self.finish(error.code, None)

    def gone(self) -> None:
        """The client gave up; whoever holds the work is told."""
        self.finish("cancelled", None)
        self.context.cancel()

    def finish(
        self, code: str, timing: Timing | None, response: InferenceResponse | None = None
    ) -> None:
        """Give back what was taken, and record what became of the call."""
        context, owner = self.context, self.owner
        self.finished = True
        if self.counted:
            self.counted = False
            context.principal.in_flight -= 1
            owner.open_count -= 1
        total_ns = owner.clock.monotonic_ns() - context.arrival_ns
        endpoint = recorded_name(owner, self.endpoint, context)
        exchange = Exchange(context, endpoint, PROTOCOL, code, total_ns, timing)
        form = None if self.request is None else self.request.form
        if form is not None:
            exchange.rows = form.rows
        if context.captured and response is not None:
            keep_answer(exchange, response)
        owner.ring.append(exchange)


class GrpcInference:
    """Turns messages into requests of the same handlers that REST asks."""

    def __init__(self, inference: Inference, settings: HttpSettings) -> None:
        self.inference = inference
        self._settings = settings
        self.max_timeout_ns = round(settings.max_request_timeout_s * 1e9)

    def __call__(self, call: Call, principal: Principal, body: Buffer) -> InferenceRequest | None:
        """Answer one call, now or later; raises ``InvalidRequest`` for what is no message.

        Returns the request if others may be read by its message.
        """
        rest, raw = self.split(body)
        message = parse(REQUEST, rest)
        stream = call.stream
        context = RequestContext(call.request_id, principal, stream.begun_ns, 0)
        answer = GrpcAnswer(self.inference, call, message.model_name, context)
        stream.on_gone = answer.gone
        self.ask(answer, message, raw, stream)
        special = message.id or answer.classes or answer.contents is not None
        return answer.request if raw and not special else None

    def split(self, body: Buffer) -> tuple[bytes, list[memoryview]]:
        """Return a message without its raw tensors, and those; see ``split_raw``."""
        return split_raw(body, self._settings.max_json_bytes, self._settings.max_objects)

    def ask(self, answer: GrpcAnswer, message: Any, raw: list[memoryview], stream: Stream) -> None:
        """Have the handlers answer a message that came on a stream; raises nothing."""
        answer.is_typed = not raw
        self._ask(answer, lambda: self._decoded(message, raw), stream)

    def ask_decoded(self, answer: GrpcAnswer, decoded: Decoded, stream: Stream) -> None:
        """Have the handlers answer a message that has been read; raises nothing."""
        self._ask(answer, lambda: decoded, stream)

    def _ask(self, answer: GrpcAnswer, read: Callable[[], Decoded], stream: Stream) -> None:
        context, name, fields = answer.context, answer.endpoint, stream.fields
        principal = context.principal
        try:
            self.inference.access.check(principal, name)
            principal.in_flight += 1
            self.inference.open_count += 1
            answer.counted = True
            endpoint = self.inference.known(name, principal.tenant)
            decoded = read()
            answer.request, answer.classes = decoded.request, decoded.classes
            answer.contents = decoded.contents
            self.inference.fill(context, decoded, endpoint)
            asked = bool((decoded.request.parameters or {}).get("timeout"))
            self._limit(context, fields.get(b"grpc-timeout"), stream, asked=asked)
            trace = fields.get(b"traceparent")
            context.traceparent = None if trace is None else trace.decode("latin-1")
            if endpoint.headers:
                context.headers = some_of(fields, endpoint.headers)
            self.inference.handler(decoded.request, context, answer)
        except SalverError as error:
            answer.fail(error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("inference_failed", request_id=context.request_id)
            answer.fail(fault_of(error))

    def _decoded(self, message: Any, raw: list[memoryview]) -> Decoded:
        tensors = inputs_of(message, raw, self._settings)
        contents = _contents(message)
        request = InferenceRequest(
            message.model_name,
            tensors if contents is None else contents.decoded(tensors),
            message.model_version or None,
            tuple(dict.fromkeys([output.name for output in message.outputs])) or None,
            custom_parameters(parameters_of(message)),
            lay_out=None if contents is None else contents.lay_out,
        )
        classes = _classes(message.outputs) if request.outputs else None
        return Decoded(request, message.id or None, classes=classes, contents=contents)

    def _limit(
        self, context: RequestContext, value: bytes | None, stream: Stream, *, asked: bool
    ) -> None:
        """Let the call's own deadline count, within what the server allows.

        ``asked`` tells that the message has one, too: then the earlier one counts.
        """
        if value is None:
            return
        limit_ns = timeout_ns(value)
        if stream.sink is None:
            deadline_ns = context.arrival_ns + min(limit_ns, self.max_timeout_ns)
            # The endpoint's usual time gives way to the call's; what the caller said does not.
            context.deadline_ns = min(deadline_ns, context.deadline_ns) if asked else deadline_ns
        else:
            # It is the deadline of the whole call, of which this is one request of many.
            context.deadline_ns = min(context.deadline_ns, stream.begun_ns + limit_ns)


def parse(name: str, data: Buffer) -> Any:
    """Return a message; raises ``InvalidRequest`` for bytes that are none."""
    try:
        return message_class(name).FromString(bytes(data))
    except DecodeError as error:
        raise InvalidRequest(f"the message is not a {name}: {error}"[:200]) from error


def _contents(message: Any) -> ContentTypes | None:
    """Return the content types that a message names, None where it names none.

    Raises ``InvalidRequest`` for one that is not known.
    """
    parts = (message, *message.inputs, *message.outputs)
    if not any(part.parameters for part in parts):
        return None
    return read_content_types(
        {
            "parameters": parameters_of(message),
            "inputs": [{"parameters": parameters_of(item)} for item in message.inputs],
            "outputs": [
                {"name": item.name, "parameters": parameters_of(item)} for item in message.outputs
            ],
        }
    )


def _classes(outputs: Any) -> dict[str, int] | None:
    """Return of which outputs only the highest values are wanted, and how many.

    Raises ``InvalidRequest``, and ``UnsupportedOperation`` for an output in shared memory.
    """
    counts = {}
    for output in outputs:
        if output.parameters:
            item = {"parameters": parameters_of(output)}
            parameters = tensor_parameters(f"output {output.name!r}", item)
            counts[output.name] = class_count(output.name, parameters)
    return {name: count for name, count in counts.items() if count} or None


def parameters_of(message: Any) -> dict[str, Any]:
    """Return the parameters of a request or of one of its tensors."""
    parameters: dict[str, Any] = {}
    for name, value in message.parameters.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is not None:
            parameters[name] = getattr(value, choice)
    return parameters
