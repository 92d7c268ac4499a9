"""From the handlers' answer to one request to its message."""

from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec
import numpy as np

from salver.core.clock import Clock
from salver.core.context import RequestContext
from salver.core.errors import ModelFailed, SalverError, fault_of
from salver.core.exchange import Exchange, ExchangeRing, keep_answer
from salver.core.handler import JointSink
from salver.core.request import InferenceResponse, Parameters
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.gateway.http.inflate import deflate
from salver.gateway.http.message import BINARY_TYPE, JSON_TYPE, Buffer, HttpMessage
from salver.gateway.oip.decode import Decoded
from salver.gateway.oip.encode import encode_json, encode_mixed, opening
from salver.gateway.triton.classification import classified
from salver.observe.logs import get_logger
from salver.wire.messages import EndpointPlan

log = get_logger(__name__)

PROTOCOL = "http"


class Owner(Protocol):
    """What answers need of whoever asked the handlers."""

    clock: Clock
    ring: ExchangeRing
    max_answer_bytes: int
    open_count: int
    find: Callable[[str], EndpointPlan | None]


def recorded_name(owner: Owner, endpoint: str, context: RequestContext) -> str:
    """Return the name to record a request under, "" where there is no such endpoint.

    Callers could fill the memory of whoever counts by endpoint with names of their own.
    """
    return endpoint if context.variant or owner.find(endpoint) is not None else ""


def tell(fail: Callable[[SalverError], object], error: SalverError, request_id: str) -> None:
    """Call what tells a caller of an error; raises nothing, for others wait behind this one."""
    try:
        fail(error)
    except Exception:
        log.exception("failure_not_told", request_id=request_id)


def variant_line(variant: str) -> bytes:
    """Return the header line that says which variant answered."""
    return b"x-salver-variant: %b\r\n" % variant.encode()


class Answer(msgspec.Struct, eq=False):
    """Responder of one inference message.

    ``joint`` is set while the answer may be written together with others: it is JSON, and nothing
    about it is special.
    """

    owner: Owner
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
            self._finish("", response.timing, response=response)

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
        self.message.request_id = self.context.request_id
        tell(self.message.fail, error, self.context.request_id)
        self._finish(error.code, None)

    def gone(self, message: HttpMessage) -> None:
        """The client left; whoever holds the work is told, and what it still says is dropped."""
        del message
        self._finish("cancelled", None)
        self.context.cancel()

    def deliver(
        self, text: bytes, timing: Timing, now_ns: int, response: InferenceResponse | None = None
    ) -> None:
        """Answer with outputs that are written already; ``response`` if they are captured."""
        if self.finished:
            return
        context = self.context
        head = opening(self.endpoint, context.version, context.caller_id)
        self.message.request_id = context.request_id
        self.message.respond_json(variant_line(context.variant), head, text)
        self._finish("", timing, now_ns, response)

    def _write(self, response: InferenceResponse) -> None:
        message, context, outputs = self.message, self.context, response.outputs
        decoded = cast(Decoded, self.decoded)
        head = opening(self.endpoint, context.version, decoded.caller_id, response.parameters)
        extra = b"x-salver-request-id: %b\r\n%b" % (
            context.request_id.encode(),
            variant_line(context.variant),
        )
        parts: list[Buffer]
        content_type = JSON_TYPE
        wanted = decoded.outputs
        if wanted is not None:
            by_name = {tensor.name: tensor for tensor in outputs}
            outputs = [by_name[name] for name in wanted if name in by_name]
        if decoded.classes:
            endpoint = self.owner.find(self.endpoint)
            outputs = classified(outputs, decoded.classes, endpoint, context.variant)
        notes: dict[str, Parameters] = {}
        if decoded.contents is not None:
            outputs, notes = decoded.contents.encoded(outputs)
        if decoded.write is not None:
            parts = [decoded.write(response)]
        elif decoded.binary_default or (wanted is not None and any(wanted.values())):
            json, raw = encode_mixed(
                head, outputs, wanted or {}, notes, default=decoded.binary_default
            )
            parts, content_type = [json, *raw], BINARY_TYPE
            extra += b"Inference-Header-Content-Length: %d\r\n" % len(json)
        else:
            parts = [encode_json(head, outputs, notes)]
        accepted = message.headers.get(b"accept-encoding")
        if accepted is not None and accepted != b"identity":
            parts, line = deflate(parts, accepted)
            extra += line
        message.respond(200, parts, content_type, extra)

    def _finish(
        self,
        code: str,
        timing: Timing | None,
        now_ns: int = 0,
        response: InferenceResponse | None = None,
    ) -> None:
        context, owner = self.context, self.owner
        self.finished = True
        if self.counted:
            self.counted = False
            context.principal.in_flight -= 1
            owner.open_count -= 1
        total_ns = (now_ns or owner.clock.monotonic_ns()) - context.arrival_ns
        endpoint = recorded_name(owner, self.endpoint, context)
        exchange = Exchange(context, endpoint, PROTOCOL, code, total_ns, timing)
        form = None if self.decoded is None else self.decoded.request.form
        if form is not None:
            exchange.rows = form.rows
        if context.captured and response is not None:
            keep_answer(exchange, response)
        owner.ring.append(exchange)


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
