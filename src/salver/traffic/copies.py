"""Copies of requests on their way to a shadow, and what becomes of them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from salver.core.clock import Clock
from salver.core.cohort import Cohort, Piece
from salver.core.context import Principal, RequestContext
from salver.core.errors import CapacityError, DeadlineExceeded, SalverError, fault_of
from salver.core.handler import Handler, Responder
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse
from salver.core.timing import Timing
from salver.observe.logs import get_logger
from salver.observe.meter import Meter
from salver.traffic.compare import compare
from salver.wire.messages import VariantPlan

log = get_logger(__name__)

_LEAST_URGENT = 2**31


class Owner(Protocol):
    """What copies need of whoever sends them."""

    inner: Handler
    inner_many: Callable[[Sequence[Cohort]], None]
    meter: Meter
    clock: Clock

    def ended(self, target: "Target", count: int) -> None:
        """Take note that copies have come to their end."""
        ...


class Copy:
    """One copy, or those of a cohort; ``send`` sends it and raises nothing."""

    __slots__ = ("count", "send", "size_bytes", "target")

    def __init__(
        self, target: "Target", count: int, size_bytes: int, send: Callable[[], None]
    ) -> None:
        self.target = target
        self.count = count
        self.size_bytes = size_bytes
        self.send = send


class Target:
    """A shadow and who asks it. Its requests are the least urgent, and are asked for nobody."""

    __slots__ = ("endpoint", "key", "labels", "primary", "principal", "timeout_ns", "variant")

    def __init__(
        self,
        endpoint: str,
        primary: str,
        variant: VariantPlan,
        principal: Principal,
        timeout_ns: int,
    ) -> None:
        self.endpoint = endpoint
        self.key = (endpoint, variant.id)
        self.primary = primary
        self.variant = variant
        self.principal = principal
        self.timeout_ns = timeout_ns
        self.labels = (endpoint, variant.id, str(variant.weight_epoch))

    def context(self, now_ns: int) -> RequestContext:
        """Return the context of a copy."""
        return RequestContext(
            "",
            self.principal,
            now_ns,
            now_ns + self.timeout_ns,
            priority=_LEAST_URGENT,
            idempotent=False,
            variant=self.variant.id,
            version=self.variant.version,
        )

    def single(self, owner: Owner, request: InferenceRequest, response: InferenceResponse) -> Copy:
        """Return the copy of one request, which was answered with ``response``."""

        def send() -> None:
            responder = _CopyResponder(owner, self, response)
            try:
                owner.inner(request, self.context(owner.clock.monotonic_ns()), responder)
            except Exception as error:  # nobody waits, and nothing else may end by it
                log.exception("copy_failed", endpoint=self.endpoint)
                responder.fail(fault_of(error))

        size = sum([tensor.size_bytes for tensor in (*request.inputs, *response.outputs)])
        return Copy(self, 1, size, send)

    def compared(self, meter: Meter, one: InferenceResponse, other: InferenceResponse) -> None:
        """Count what came of a copy."""
        found = compare(one.outputs, other.outputs)
        outcome = "agrees" if found.agrees else "differs"
        meter.add("salver_shadow_copies_total", (*self.labels, outcome))
        meter.histogram("salver_shadow_difference", self.labels).observe(found.difference)
        for name, timing in (("primary", one.timing), ("shadow", other.timing)):
            if timing is not None:
                histogram = meter.histogram("salver_shadow_seconds", (*self.labels, name))
                histogram.observe(_seconds(timing))


def _seconds(timing: Timing) -> float:
    return (timing.queue_ns + timing.preprocess_ns + timing.run_ns + timing.postprocess_ns) / 1e9


def _had_no_room(error: SalverError) -> bool:
    """Tell whether a copy never ran for want of room or of a worker, which is no version's fault.

    One that ran out of time is: its original did not.
    """
    return isinstance(error, CapacityError) and not isinstance(error, DeadlineExceeded)


class _CopyResponder:
    """Takes the shadow's answer to one copy."""

    __slots__ = ("_is_over", "_owner", "_response", "_target")

    def __init__(self, owner: Owner, target: Target, response: InferenceResponse) -> None:
        self._owner = owner
        self._target = target
        self._response = response
        self._is_over = False

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Compare."""
        if final and not self._is_over:
            self._is_over = True
            self._target.compared(self._owner.meter, self._response, response)
            self._owner.ended(self._target, 1)

    def fail(self, error: SalverError) -> None:
        """Count a failure, or a copy that was dropped because there was no room for it."""
        if not self._is_over:
            self._is_over = True
            outcome = "dropped" if _had_no_room(error) else "failed"
            labels = (*self._target.labels, outcome)
            self._owner.meter.add("salver_shadow_copies_total", labels)
            self._owner.ended(self._target, 1)


class CopyRoom:
    """Audience of the copies of one cohort's members; seats are the responders of the copies."""

    def __init__(
        self, owner: Owner, target: Target, responses: Sequence[InferenceResponse]
    ) -> None:
        self.owner = owner
        self.target = target
        self.seats = [_CopyResponder(owner, target, response) for response in responses]

    def seated(self, cohort: Cohort) -> None:
        """Need not know."""

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Compare each member's answers."""
        position = 0
        for cohort, start, stop in pieces:
            for seat in cohort.seats[start:stop]:
                seat.send(response.alone(position))
                position += 1

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Return the responder of one copy."""
        del request, context
        responder: Responder = cohort.seats[index]
        return responder


def copy_of(cohort: Cohort, picked: Sequence[int], room: CopyRoom) -> Callable[[], None]:
    """Return how to send the copies of some members."""
    payloads = [cohort.payloads[index] for index in picked]
    owner, target, common = room.owner, room.target, cohort.request

    def send() -> None:
        request = msgspec.structs.replace(common, version=None)
        context, count = target.context(owner.clock.monotonic_ns()), len(payloads)
        seats: list[Any] = list(room.seats)
        copy = Cohort(request, context, room, seats, [""] * count, [None] * count, payloads)
        try:
            owner.inner_many([copy])
        except Exception as error:  # nobody waits, and nothing else may end by it
            log.exception("copy_failed", endpoint=target.endpoint)
            for seat in room.seats:
                seat.fail(fault_of(error))

    return send
