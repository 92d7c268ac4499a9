"""`POST …/infer`: from a message to the handlers, and from their answer to the message."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from salver.core.clock import Clock
from salver.core.context import Principal, RequestContext
from salver.core.datatypes import BYTES, ITEM_SIZES
from salver.core.errors import (
    EndpointNotFound,
    Internal,
    InvalidRequest,
    ModelFailed,
    SalverError,
)
from salver.core.exchange import Exchange, ExchangeRing
from salver.core.handler import Handler
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.settings import HttpSettings
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.gateway.auth import check_access
from salver.gateway.http.inflate import deflate, inflate
from salver.gateway.http.message import BINARY_TYPE, JSON_TYPE, Buffer, HttpMessage
from salver.gateway.oip.decode import Decoded, Target, decode_binary, decode_json
from salver.gateway.oip.encode import encode_json, encode_mixed, opening
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

    def __call__(self, message: HttpMessage, target: Target, principal: Principal) -> None:
        """Answer one inference message, now or later."""
        context = RequestContext(
            message.request_id,
            principal,
            message.arrival_ns,
            message.arrival_ns + self._timeout_ns,
            None,
            None,
        )
        answer = _Answer(self, message, target, context)
        try:
            check_access(principal, target.endpoint)
            principal.in_flight += 1
            answer.counted = True
            endpoint = self._find(target.endpoint)
            if endpoint is None:
                # Unknown endpoints are refused before their bodies are looked at.
                raise EndpointNotFound(
                    f"no endpoint {target.endpoint!r}; 'salver get endpoints' lists what is "
                    "deployed"
                )
            decoded = self._decode(message, target, endpoint)
            self._fill(context, message, decoded, endpoint)
        except SalverError as error:
            answer.fail(error)
            return
        answer.decoded = decoded
        message.on_gone = answer.gone
        try:
            self._handler(decoded.request, context, answer)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("handler_failed", request_id=message.request_id)
            answer.fail(Internal(f"an internal fault ({type(error).__name__}); it was logged"))

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

    def _fill(
        self,
        context: RequestContext,
        message: HttpMessage,
        decoded: Decoded,
        endpoint: EndpointPlan,
    ) -> None:
        context.caller_id = decoded.caller_id
        traceparent = message.headers.get(b"traceparent")
        if traceparent is not None:
            context.traceparent = traceparent.decode("latin-1")
        timeout_ns = round(endpoint.timeout_s * 1e9)
        parameters = decoded.request.parameters
        if parameters is not None:
            timeout_ns = self._parameters(context, parameters, timeout_ns)
        context.deadline_ns = context.arrival_ns + min(timeout_ns, self._max_timeout_ns)

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
        return timeout_us * _MICROSECOND_NS or timeout_ns


class _Answer:
    """Responder of one inference message."""

    __slots__ = (
        "_chunks",
        "_context",
        "_finished",
        "_message",
        "_owner",
        "_target",
        "counted",
        "decoded",
    )

    def __init__(
        self, owner: Inference, message: HttpMessage, target: Target, context: RequestContext
    ) -> None:
        self._owner = owner
        self._message = message
        self._target = target
        self._context = context
        self._chunks: list[InferenceResponse] | None = None
        self._finished = False
        self.decoded: Decoded | None = None
        self.counted = False

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Answer; chunks of a streaming model are answered together at its end."""
        if self._finished:
            return
        if not final or self._chunks is not None:
            self._chunks = self._chunks or []
            self._chunks.append(response)
            if not final:
                return
            response = InferenceResponse(
                _joined(self._chunks), response.timing, response.parameters
            )
        try:
            self._write(response)
        except SalverError as error:
            self.fail(error)
            return
        self._finish("", response.timing)

    def fail(self, error: SalverError) -> None:
        """Answer with a coded error."""
        if self._finished:
            return
        self._message.fail(error)
        self._finish(error.code, None)

    def gone(self) -> None:
        """The client left; whoever holds the work is told, and what it still says is dropped."""
        self._finish("cancelled", None)
        self._context.cancel()

    def _write(self, response: InferenceResponse) -> None:
        message, context, outputs = self._message, self._context, response.outputs
        decoded = cast(Decoded, self.decoded)
        endpoint = self._target.endpoint
        head = opening(endpoint, context.version, decoded.caller_id, response.parameters)
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

    def _finish(self, code: str, timing: Timing | None) -> None:
        context = self._context
        self._finished = True
        if self.counted:
            self.counted = False
            context.principal.in_flight -= 1
        total_ns = self._owner.clock.monotonic_ns() - context.arrival_ns
        exchange = Exchange(context, self._target.endpoint, _PROTOCOL, code, total_ns, timing)
        self._owner.ring.append(exchange)


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
