"""`POST …/infer`: from a message to the handlers, and from their answer to the message."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from salver.core.clock import Clock
from salver.core.context import RequestContext
from salver.core.datatypes import BYTES, ITEM_SIZES
from salver.core.errors import EndpointNotFound, InvalidRequest, SalverError, fault_of
from salver.core.exchange import ExchangeRing
from salver.core.handler import Handler
from salver.core.names import check_name
from salver.core.request import InferenceRequest, JointResponse
from salver.core.settings import HttpSettings, LimitSettings
from salver.core.tensor import Tensor
from salver.gateway.http.inflate import inflate
from salver.gateway.http.message import Buffer, HttpMessage
from salver.gateway.limits.access import Access
from salver.gateway.oip.answer import Answer
from salver.gateway.oip.decode import Decoded, decode_binary, decode_json
from salver.gateway.oip.encode import encode_joint
from salver.gateway.oip.reading import V1, Reading, Target
from salver.gateway.v1.decode import decode_v1
from salver.observe.logs import get_logger
from salver.wire.messages import EndpointPlan

log = get_logger(__name__)

_JSON_LENGTH: Final = b"inference-header-content-length"
_MAX_LENGTH_DIGITS: Final = 18
_MICROSECOND_NS: Final = 1000


class Inference:
    """Turns messages into requests of one handler chain."""

    def __init__(
        self,
        handler: Handler,
        find: Callable[[str], EndpointPlan | None],
        ring: ExchangeRing,
        settings: HttpSettings,
        clock: Clock,
        access: Access | None = None,
    ) -> None:
        self.handler = handler
        self.access = access or Access(LimitSettings(), clock)
        self.find = find
        self.ring = ring
        self._settings = settings
        self.clock = clock
        self._timeout_ns = round(settings.request_timeout_s * 1e9)
        self._max_timeout_ns = round(settings.max_request_timeout_s * 1e9)
        self._timeouts_ns: dict[float, int] = {}
        self.max_answer_bytes = settings.max_body_bytes
        self.open_count = 0

    def __call__(
        self, message: HttpMessage, reading: Reading, decoded: Decoded | None = None
    ) -> None:
        """Answer one inference message, now or later; its body may have been read already."""
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
        answer = Answer(self, message, target.endpoint, context)
        try:
            self.access.check(principal, target.endpoint)
            principal.in_flight += 1
            self.open_count += 1
            answer.counted = True
            # Unknown endpoints are refused before their bodies are looked at; another tenant's is
            # one of them, so that nothing of its signature can be learned.
            endpoint = self.known(target.endpoint, principal.tenant)
            if decoded is not None:
                pass
            elif reading.plain:
                settings = self._settings
                decoded = decode_json(message.body, target, settings, settings.json_mode)
            else:
                decoded = self._decode(message, reading, endpoint)
            self.fill(context, decoded, endpoint)
            if endpoint.headers:
                context.headers = some_of(message.headers, endpoint.headers)
            answer.decoded = decoded
            if reading.plain_answer and not decoded.binary_default and decoded.outputs is None:
                answer.joint = self
            message.on_gone = answer.gone
            self.handler(decoded.request, context, answer)
        except SalverError as error:
            answer.fail(error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("inference_failed", request_id=message.request_id)
            answer.fail(fault_of(error))

    def send_joint(self, responders: Sequence["Answer"], response: JointResponse) -> None:
        """Write the answers of many callers at once; see ``core.handler.JointSink``."""
        try:
            texts = encode_joint(response)
        except Exception:  # one of them cannot be written, and only that one must fail
            for index, answer in enumerate(responders):
                answer.send(response.alone(index))
            return
        now_ns = self.clock.monotonic_ns()
        for index, (answer, text) in enumerate(zip(responders, texts, strict=True)):
            try:
                kept = response.alone(index) if answer.context.captured else None
                answer.deliver(text, response.timings[index], now_ns, kept)
            except Exception as error:  # those after it must be answered too
                log.exception("answer_failed", request_id=answer.context.request_id)
                answer.fail(fault_of(error))

    def _decode(self, message: HttpMessage, reading: Reading, endpoint: EndpointPlan) -> Decoded:
        headers, body, target = message.headers, message.body, reading.target
        encoding = headers.get(b"content-encoding")
        if encoding is not None:
            body = inflate(body, encoding, self._settings.max_inflated_bytes)
        if reading.dialect == V1:
            return decode_v1(body, target, endpoint, self._settings)
        json_length = headers.get(_JSON_LENGTH)
        if json_length is None:
            return decode_json(body, target, self._settings, self._settings.json_mode)
        if not json_length.isdigit() or len(json_length) > _MAX_LENGTH_DIGITS:
            raise InvalidRequest("Inference-Header-Content-Length must be a whole number")
        if int(json_length) == 0:
            return _raw(body, target, endpoint)
        return decode_binary(body, int(json_length), target, self._settings)

    def known(self, name: str, tenant: str) -> EndpointPlan:
        """Return a tenant's endpoint; raises ``EndpointNotFound``, or ``InvalidName``."""
        endpoint = self.find(name)
        if endpoint is None or endpoint.tenant != tenant:
            _unknown(name)
        return endpoint

    def routing_headers(
        self, name: str, fields: Mapping[bytes, bytes]
    ) -> tuple[tuple[str, str | None], ...]:
        """Return what an endpoint's routing wants to know of the header fields of a request."""
        endpoint = self.find(name)
        if endpoint is None or not endpoint.headers:
            return ()
        found = some_of(fields, endpoint.headers)
        return tuple([(field, found.get(field)) for field in endpoint.headers])

    def timeout_ns(self, endpoint: EndpointPlan) -> int:
        """Return how long a request to an endpoint may take."""
        timeout_s = endpoint.timeout_s
        timeout_ns = self._timeouts_ns.get(timeout_s)
        if timeout_ns is None:
            timeout_ns = min(round(timeout_s * 1e9), self._max_timeout_ns)
            self._timeouts_ns[timeout_s] = timeout_ns
        return timeout_ns

    def fill(self, context: RequestContext, decoded: Decoded, endpoint: EndpointPlan) -> None:
        """Set the caller's id, the deadline and the priority; raises ``InvalidRequest``."""
        context.caller_id = decoded.caller_id
        timeout_ns, parameters = self.timeout_ns(endpoint), decoded.request.parameters
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


def some_of(fields: Mapping[bytes, bytes], names: Sequence[str]) -> dict[str, str]:
    """Return the header fields of these names that are there."""
    found = ((name, fields.get(name.encode())) for name in names)
    return {name: value.decode("latin-1") for name, value in found if value is not None}


def _unknown(endpoint: str) -> NoReturn:
    check_name(endpoint, "endpoint")
    raise EndpointNotFound(
        f"no endpoint {endpoint!r}; 'salver get endpoints' lists what is deployed"
    )


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
