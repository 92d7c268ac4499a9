"""`POST …/infer`: from a message to the handlers, and from their answer to the message."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import msgspec
import numpy as np

from salver.core.clock import Clock
from salver.core.context import RequestContext
from salver.core.datatypes import BYTES, ITEM_SIZES
from salver.core.errors import (
    EndpointNotFound,
    InvalidRequest,
    ModelFailed,
    SalverError,
    fault_of,
)
from salver.core.exchange import Exchange, ExchangeRing
from salver.core.handler import Handler, JointSink
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse
from salver.core.settings import HttpSettings
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.gateway.auth import check_access
from salver.gateway.http.inflate import deflate, inflate
from salver.gateway.http.message import BINARY_TYPE, JSON_TYPE, Buffer, HttpMessage
from salver.gateway.oip.decode import Decoded, decode_binary, decode_json
from salver.gateway.oip.encode import encode_joint, encode_json, encode_mixed, opening
from salver.gateway.oip.reading import Reading, Target
from salver.observe.logs import get_logger
from salver.wire.messages import EndpointPlan

log = get_logger(__name__)

_JSON_LENGTH = b"inference-header-content-length"
_MAX_LENGTH_DIGITS = 18
_MICROSECOND_NS = 1000
_PROTOCOL = "http"
_IDENTITY = b"x-salver-request-id: %b\r\nx-salver-variant: %b\r\n"


class Inference:
    """Turns messages into requests of one handler chain."""

    def __init__(
        self,
        handler: Handler,
        find: Callable[[str], EndpointPlan | None],
        ring: ExchangeRing,
        settings: HttpSettings,
        clock: Clock,
    ) -> None:
        self._handler = handler
        self._find = find
        self.ring = ring
        self._settings = settings
        self.clock = clock
        self._timeout_ns = round(settings.request_timeout_s * 1e9)
        self._max_timeout_ns = round(settings.max_request_timeout_s * 1e9)
        self._timeouts_ns: dict[float, int] = {}
        self.max_answer_bytes = settings.max_body_bytes

    def __call__(self, message: HttpMessage, reading: Reading) -> None:
        """Answer one inference message, now or later."""
        principal, target = reading.principal, reading.target
        arrival_ns = message.arrival_ns
        context = RequestContext(
            message.request_id,
            principal,
            arrival_ns,
            arrival_ns + self._timeout_ns,
            None,
            reading.traceparent,
        )
        answer = _Answer(self, message, target.endpoint, context)
        try:
            check_access(principal, target.endpoint)
            principal.in_flight += 1
            answer.counted = True
            # Unknown endpoints are refused before their bodies are looked at.
            endpoint = self._find(target.endpoint) or _unknown(target.endpoint)
            if reading.plain:
                settings = self._settings
                decoded = decode_json(message.body, target, settings, settings.json_mode)
            else:
                decoded = self._decode(message, target, endpoint)
            self._fill(context, decoded, endpoint)
            answer.decoded = decoded
            if reading.plain_answer and not decoded.binary_default and decoded.outputs is None:
                answer.joint = self
            message.on_gone = answer.gone
            self._handler(decoded.request, context, answer)
        except SalverError as error:
            answer.fail(error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("inference_failed", request_id=message.request_id)
            answer.fail(fault_of(error))

    def send_joint(self, responders: Sequence["_Answer"], response: JointResponse) -> None:
        """Write the answers of many callers at once; see ``core.handler.JointSink``."""
        try:
            texts = encode_joint(response)
        except Exception:  # one of them cannot be written, and only that one must fail
            for index, answer in enumerate(responders):
                answer.send(response.alone(index))
            return
        now_ns = self.clock.monotonic_ns()
        for answer, text, timing in zip(responders, texts, response.timings, strict=True):
            try:
                answer.deliver(text, timing, now_ns)
            except Exception as error:  # those after it must be answered too
                log.exception("answer_failed", request_id=answer.context.request_id)
                answer.fail(fault_of(error))

    def _decode(self, message: HttpMessage, target: Target, endpoint: EndpointPlan) -> Decoded:
        headers, body = message.headers, message.body
        encoding = headers.get(b"content-encoding")
        if encoding is not None:
            body = inflate(body, encoding, self._settings.max_inflated_bytes)
        json_length = headers.get(_JSON_LENGTH)
        if json_length is None:
            return decode_json(body, target, self._settings, self._settings.json_mode)
        if not json_length.isdigit() or len(json_length) > _MAX_LENGTH_DIGITS:
            raise InvalidRequest("Inference-Header-Content-Length must be a whole number")
        if int(json_length) == 0:
            return _raw(body, target, endpoint)
        return decode_binary(body, int(json_length), target, self._settings)

    def _fill(self, context: RequestContext, decoded: Decoded, endpoint: EndpointPlan) -> None:
        context.caller_id = decoded.caller_id
        timeout_s, parameters = endpoint.timeout_s, decoded.request.parameters
        timeout_ns = self._timeouts_ns.get(timeout_s)
        if timeout_ns is None:
            timeout_ns = min(round(timeout_s * 1e9), self._max_timeout_ns)
            self._timeouts_ns[timeout_s] = timeout_ns
        if parameters is not None:
            timeout_ns = self._parameters(context, parameters, timeout_ns)
        context.deadline_ns = context.arrival_ns + timeout_ns

    def _parameters(
        self, context: RequestContext, parameters: dict[str, Any], timeout_ns: int
    ) -> int:
        """Read what Triton's clients may ask for: priority, and a timeout in microseconds."""
        priority = parameters.get("priority", 0)
        timeout_us = parameters.get("timeout", 0)
        for name, value in (("priority", priority), ("timeout", timeout_us)):
            if type(value) is not int or value < 0:
                raise InvalidRequest(f"parameter {name!r} must be a whole number, not {value!r}")
        context.priority = min(priority, 2**31)
        if timeout_us:
            timeout_ns = min(int(timeout_us) * _MICROSECOND_NS, self._max_timeout_ns)
        return timeout_ns


def _unknown(endpoint: str) -> NoReturn:
    raise EndpointNotFound(
        f"no endpoint {endpoint!r}; 'salver get endpoints' lists what is deployed"
    )


class _Answer(msgspec.Struct, eq=False):
    """Responder of one inference message.

    ``joint`` is set while the answer may be written together with others: it is JSON, and nothing
    about it is special.
    """

    owner: Inference
    message: HttpMessage
    endpoint: str
    context: RequestContext
    decoded: Decoded | None = None
    counted: bool = False
    joint: JointSink | None = None
    chunks: list[InferenceResponse] | None = None
    chunk_bytes: int = 0
    finished: bool = False

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Answer; chunks of a streaming model are answered together at its end."""
        if self.finished:
            return
        if not final or self.chunks is not None:
            self._keep(response)
            if not final or self.finished:
                return
        try:
            if self.chunks is not None:
                outputs = _joined(self.chunks)
                response = InferenceResponse(outputs, response.timing, response.parameters)
            self._write(response)
        except SalverError as error:
            self.fail(error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("answer_failed", request_id=self.message.request_id)
            self.fail(fault_of(error))
        else:
            self._finish("", response.timing)

    def _keep(self, response: InferenceResponse) -> None:
        """Keep a chunk for the end; a stream that is too long for one answer ends here."""
        self.chunks = self.chunks or []
        self.chunks.append(response)
        self.chunk_bytes += sum([tensor.size_bytes for tensor in response.outputs])
        limit = self.owner.max_answer_bytes
        if self.chunk_bytes > limit:
            self.fail(ModelFailed(f"the stream is over {limit} bytes, too long for one answer"))
            self.context.cancel()

    def fail(self, error: SalverError) -> None:
        """Answer with a coded error."""
        if self.finished:
            return
        self.message.fail(error)
        self._finish(error.code, None)

    def gone(self) -> None:
        """The client left; whoever holds the work is told, and what it still says is dropped."""
        self._finish("cancelled", None)
        self.context.cancel()

    def deliver(self, text: bytes, timing: Timing, now_ns: int) -> None:
        """Answer with outputs that are written already."""
        if self.finished:
            return
        message, context = self.message, self.context
        request_id, variant = message.request_id, context.variant
        head = opening(self.endpoint, context.version, context.caller_id)
        identity = _IDENTITY % (request_id.encode(), variant.encode())
        message.respond_json(identity, head, text)
        self._finish("", timing, now_ns)

    def _write(self, response: InferenceResponse) -> None:
        message, context, outputs = self.message, self.context, response.outputs
        decoded = cast(Decoded, self.decoded)
        head = opening(self.endpoint, context.version, decoded.caller_id, response.parameters)
        extra = _IDENTITY % (message.request_id.encode(), context.variant.encode())
        parts: list[Buffer]
        content_type = JSON_TYPE
        wanted = decoded.outputs
        if wanted is not None:
            by_name = {tensor.name: tensor for tensor in outputs}
            outputs = [by_name[name] for name in wanted if name in by_name]
        if decoded.binary_default or (wanted is not None and any(wanted.values())):
            json, raw = encode_mixed(head, outputs, wanted or {}, default=decoded.binary_default)
            parts, content_type = [json, *raw], BINARY_TYPE
            extra += b"Inference-Header-Content-Length: %d\r\n" % len(json)
        else:
            parts = [encode_json(head, outputs)]
        accepted = message.headers.get(b"accept-encoding")
        if accepted is not None and accepted != b"identity":
            parts, line = deflate(parts, accepted)
            extra += line
        message.respond(200, parts, content_type, extra)

    def _finish(self, code: str, timing: Timing | None, now_ns: int = 0) -> None:
        context, owner = self.context, self.owner
        self.finished = True
        if self.counted:
            self.counted = False
            context.principal.in_flight -= 1
        total_ns = (now_ns or owner.clock.monotonic_ns()) - context.arrival_ns
        owner.ring.append(Exchange(context, self.endpoint, _PROTOCOL, code, total_ns, timing))


def _raw(body: Buffer, target: Target, endpoint: EndpointPlan) -> Decoded:
    """Read a body that is nothing but one tensor: the only input, as one batch of one.

    The protocol asks for exactly one input whose shape has at most one variable dimension
    besides the batch.
    """
    specs = endpoint.variants[0].signature.inputs if endpoint.variants else ()
    if len(specs) != 1:
        raise InvalidRequest(
            f"a raw binary body takes a model with one input; this one has {len(specs)}"
        )
    spec = specs[0]
    shape = [1 if index == 0 and size < 0 else size for index, size in enumerate(spec.shape)]
    variable = [index for index, size in enumerate(shape) if size < 0]
    view = memoryview(body)
    if len(variable) > 1:
        raise InvalidRequest(f"the shape {list(spec.shape)} cannot be told from raw bytes alone")
    if spec.datatype == BYTES:
        buffer: Buffer = len(view).to_bytes(4, "little") + bytes(view)
        shape = [1 if size < 0 else size for size in shape]
    else:
        buffer = view
        if variable:
            row = Tensor(spec.name, spec.datatype, tuple(abs(size) for size in shape), b"")
            shape[variable[0]] = view.nbytes // (row.element_count * ITEM_SIZES[spec.datatype])
    tensor = Tensor(spec.name, spec.datatype, tuple(shape), buffer)
    tensor.check()
    return Decoded(InferenceRequest(target.endpoint, [tensor], target.version), None, False, None)


def _joined(chunks: list[InferenceResponse]) -> list[Tensor]:
    """Return the chunks of a stream as one answer, outputs joined along the first axis."""
    arrays: dict[str, list[Any]] = {}
    for chunk in chunks:
        for tensor in chunk.outputs:
            arrays.setdefault(tensor.name, []).append(tensor.array())
    try:
        return [Tensor.from_array(name, np.concatenate(parts)) for name, parts in arrays.items()]
    except ValueError as error:
        raise ModelFailed("the chunks of the stream cannot be joined into one answer") from error
