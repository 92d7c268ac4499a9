"""One request on its way through the workers, and the links that may carry it."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from salver.core.cohort import Cohort
from salver.core.context import RequestContext
from salver.core.errors import InvalidRequest, SalverError, WireError
from salver.core.handler import Responder
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse
from salver.core.tensor import Tensor
from salver.engine.client.signs import Signs
from salver.observe.logs import get_logger
from salver.wire.framing import Buffer
from salver.wire.messages import Chunk, Infer, TensorHeader, VariantPlan

log = get_logger(__name__)

STREAM_CREDIT = 16
_NANOSECONDS_PER_MICROSECOND = 1000
_Whom = TypeVar("_Whom")
_SCALARS = (str, int, float, bool, type(None))


class Link(Protocol):
    """What routing needs of the link to a worker."""

    identity: str
    ready: frozenset[str]
    on_demand: bool
    signs: Signs

    def can_answer(self, variant: str) -> bool:
        """Tell whether the worker answers for a version now, or would if it were started."""
        ...

    def wake(self, variant: str) -> SalverError | None:
        """Have the worker started; returns why it cannot answer if it just said so."""
        ...

    @property
    def open_count(self) -> int:
        """Requests that the worker has not answered yet."""
        ...

    def send(self, pending: "Pending") -> None:
        """Ask the worker; raises ``SalverError`` when the request cannot be sent as it is."""
        ...

    @property
    def takes_cohorts(self) -> bool:
        """Tell whether the worker understands them."""
        ...

    def send_cohort(self, cohort: Cohort, route: "VariantRoute") -> None:
        """Queue a cohort for ``flush``; raises ``SalverError`` when it cannot be sent as it is."""
        ...

    def flush(self) -> None:
        """Send what was queued."""
        ...

    def cancel(self, pending: "Pending") -> None:
        """Tell the worker that nobody waits for this request."""
        ...


class VariantRoute:
    """The links of one variant.

    Until ``settle_ns`` (monotonic) a request may wait for a link: the plan names workers whose
    greeting may still be on its way. After that, no link means a refusal. ``when_room`` is called
    when requests have ended, while somebody waits for that. ``ejected`` names workers that get
    nothing while another one can answer, and silent ones get nothing while one of those can.
    ``waiting`` counts requests for which no link is ready. ``open_ns`` adds up how long each
    request was open, until it was last counted.
    """

    __slots__ = (
        "_counted_ns",
        "_first",
        "ejected",
        "in_flight",
        "links",
        "open_ns",
        "plan",
        "quarantine",
        "settle_ns",
        "waiting",
        "when_room",
    )

    def __init__(self, plan: VariantPlan) -> None:
        self.plan = plan
        self.links: list[Link] = []
        self.quarantine: Link | None = None
        self.in_flight = 0
        self.settle_ns = 0
        self.waiting = 0
        self.when_room: Callable[[], None] | None = None
        self.ejected: frozenset[str] = frozenset()
        self.open_ns = 0
        self._counted_ns = 0
        self._first = 0

    def count(self, now_ns: int) -> None:
        """Add up how long the open requests have been open since this was last called."""
        self.open_ns += self.in_flight * (now_ns - self._counted_ns)
        self._counted_ns = now_ns

    def take(self, count: int, now_ns: int) -> None:
        """Take note that so many requests are open now."""
        # Every request passes here twice, so neither calls the method above.
        in_flight = self.in_flight
        if in_flight:
            self.open_ns += in_flight * (now_ns - self._counted_ns)
        self._counted_ns = now_ns
        self.in_flight = in_flight + count

    def release(self, count: int, now_ns: int) -> None:
        """Take note that so many requests have ended."""
        in_flight = self.in_flight
        self.open_ns += in_flight * (now_ns - self._counted_ns)
        self._counted_ns = now_ns
        self.in_flight = in_flight - count
        if self.when_room is not None:
            self.when_room()

    @property
    def sleepers(self) -> list[Link]:
        """Return the links whose workers run on demand."""
        return [link for link in self.links if link.on_demand]

    def best(self, besides: Link | None = None) -> Link | None:
        """Return the usable link with the least outstanding work.

        Of those with as little each has its turn, so that none goes unheard of when little is
        asked.
        """
        links, variant = self.links, self.plan.id
        if len(links) == 1:
            only = links[0]
            return only if variant in only.ready and only is not besides else None
        best = self._least(besides, self.ejected)
        if best is None and self.ejected:
            best = self._least(besides, frozenset())
        return best or self._least(besides, frozenset(), silent=True)

    def _least(
        self, besides: Link | None, ejected: frozenset[str], *, silent: bool = False
    ) -> Link | None:
        links, variant = self.links, self.plan.id
        best: Link | None = None
        least = place = 0
        first = self._first % len(links) if links else 0
        for index in range(first - len(links), first):
            link = links[index]
            if variant not in link.ready or link is besides or link.signs.silent is not silent:
                continue
            if link.identity not in ejected:
                waiting = link.open_count
                if best is None or waiting < least:
                    best, least, place = link, waiting, index
        if best is not None:
            self._first = (place + 1) % len(links)
        return best


class Pending(msgspec.Struct, eq=False):
    """A request that has no final answer yet.

    ``started`` tells that its worker was about to run it; ``attempts`` counts how often it was
    sent; ``quarantined`` that its present attempt is the last one; ``stays`` that it waits for a
    worker to come back, however long; ``done`` that its caller has had the final answer or left.
    ``refused_by`` names the workers it waited for that cannot be started.
    """

    request: InferenceRequest
    context: RequestContext
    responder: Responder
    route: VariantRoute
    id: int = 0
    link: Link | None = None
    attempts: int = 0
    chunks: int = 0
    started: bool = False
    quarantined: bool = False
    stays: bool = False
    done: bool = False
    refused_by: frozenset[str] = frozenset()

    def send(self, response: InferenceResponse, *, final: bool) -> None:
        """Deliver an answer or a chunk of it; raises nothing, whatever its caller's side does."""
        try:
            self.responder.send(response, final=final)
        except Exception:  # the link's other callers must not suffer for it
            log.exception("answer_not_delivered", request_id=self.context.request_id)
            self.context.cancel()

    def fail(self, error: SalverError) -> None:
        """Deliver a failure; raises nothing, as ``send``."""
        try:
            self.responder.fail(error)
        except Exception:  # the link's other callers must not suffer for it
            log.exception("answer_not_delivered", request_id=self.context.request_id)

    def infer(self, now_ns: int) -> Infer:
        """Return the message that asks a worker; raises ``InvalidRequest``."""
        request, context = self.request, self.context
        parameters = request.parameters
        stream = False
        if parameters:
            stream = bool(parameters.get("stream"))
            for name, value in parameters.items():
                # The worker would not understand the frame and close the link on everybody.
                if not isinstance(value, _SCALARS):
                    raise InvalidRequest(f"parameter {name!r} must be text, a number or a boolean")
        return Infer(
            self.id,
            context.variant,
            headers_of(request.inputs),
            remaining_us(context.deadline_ns, now_ns),
            context.request_id,
            request.outputs,
            parameters,
            context.priority,
            stream,
            STREAM_CREDIT if stream else 0,
            context.traceparent,
        )

    def buffers(self) -> list[Buffer]:
        """Return the payload that goes with ``infer``."""
        return [tensor.buffer for tensor in self.request.inputs]


def deliver(
    answer: Callable[[_Whom, JointResponse], None], whom: _Whom, response: JointResponse
) -> None:
    """Deliver a joint answer; raises nothing, whatever its callers' side does."""
    try:
        answer(whom, response)
    except Exception:  # the link's other callers must not suffer for it
        log.exception("answer_not_delivered")


def remaining_us(deadline_ns: int, now_ns: int) -> int:
    """Return what is left until a deadline, nothing once it has passed."""
    return max(0, (deadline_ns - now_ns) // _NANOSECONDS_PER_MICROSECOND)


def remaining_times_us(deadlines_ns: Sequence[int], now_ns: int) -> tuple[int, ...]:
    """Return what is left until each of some deadlines."""
    if min(deadlines_ns) <= now_ns:
        return tuple([remaining_us(deadline_ns, now_ns) for deadline_ns in deadlines_ns])
    return tuple([(ns - now_ns) // _NANOSECONDS_PER_MICROSECOND for ns in deadlines_ns])


def headers_of(tensors: list[Tensor]) -> tuple[TensorHeader, ...]:
    """Return what travels of tensors besides their bytes."""
    return tuple([TensorHeader(t.name, t.datatype, t.shape, t.size_bytes) for t in tensors])


def tensors_of(chunk: Chunk, payload: Buffer) -> list[Tensor]:
    """Return a chunk's outputs as views of its payload.

    Raises ``WireError`` when the headers do not cover the payload.
    """
    headers = chunk.outputs
    size = len(payload)
    if len(headers) == 1:
        header = headers[0]
        if header.size_bytes != size:
            raise _mismatch(size)
        return [Tensor(header.name, header.datatype, header.shape, payload)]
    tensors: list[Tensor] = []
    position = 0
    for header in headers:
        stop = position + header.size_bytes
        tensors.append(Tensor(header.name, header.datatype, header.shape, payload[position:stop]))
        position = stop
    if position != size:
        raise _mismatch(size)
    return tensors


def _mismatch(size: int) -> WireError:
    return WireError(f"an answer of {size} bytes does not fit its headers; restart the worker")
