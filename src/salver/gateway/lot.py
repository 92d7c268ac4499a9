"""Requests that differ in their values only, on their way to be a cohort and back."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, Generic, NamedTuple, TypeVar

from salver.core.cohort import Cohort, Piece, most_members
from salver.core.context import Principal, RequestContext
from salver.core.exchange import JointExchange
from salver.core.handler import Responder
from salver.core.ids import RequestIds
from salver.core.request import InferenceRequest, JointResponse, RequestForm
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.reading import Target

# Fewer cost less one by one.
_MIN_MEMBERS: Final = 2

Seat = TypeVar("Seat")


class Kind(NamedTuple):
    """What the requests of a lot have in common.

    ``headers`` are the fields that the endpoint's routing asked for when the lot was begun.
    """

    target: Target
    principal: Principal
    form: RequestForm
    headers: tuple[tuple[str, str | None], ...] = ()


class Lot(Generic[Seat]):
    """Gathered requests of one kind; audience of the cohorts made of them.

    A seat is what its protocol knows a caller by.
    """

    protocol: ClassVar[str] = ""

    def __init__(self, inference: Inference, kind: Kind) -> None:
        self._inference = inference
        self.kind = kind
        self.limit = most_members(kind.form)
        self.seats: list[Seat] = []
        self.payloads: list[bytes] = []
        self.caller_ids: list[str | None] = []
        self.is_traced = False
        self.is_stale = False

    @abstractmethod
    def single(self, seat: Seat, payload: bytes, caller_id: str | None, request_id: str) -> None:
        """Let one request go on by itself."""

    @abstractmethod
    def arrival_ns(self, seat: Seat) -> int:
        """Return when a request came (monotonic)."""

    @abstractmethod
    def traceparent(self, seat: Seat) -> str | None:
        """Return the trace that a caller named."""

    @abstractmethod
    def seated(self, cohort: Cohort) -> None:
        """Tell the seats of a new cohort their ids, and whom to tell when they leave."""

    @abstractmethod
    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Deliver final answers; see ``core.cohort.Audience``."""

    @abstractmethod
    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Return the responder of one member; see ``core.cohort.Audience``."""

    def deadlines_ns(self, seats: list[Seat], usual_ns: int) -> list[int]:
        """Return each request's deadline, nothing where all have the usual one."""
        del seats, usual_ns
        return []

    def take(self, count: int) -> tuple[list[Seat], list[bytes], list[str | None]]:
        """Return the first of what was gathered; the rest stays."""
        columns = (self.seats, self.payloads, self.caller_ids)
        self.seats, self.payloads, self.caller_ids = [], [], []
        if count == len(columns[0]):
            return columns
        seats, payloads, caller_ids = columns
        self.seats, self.payloads = seats[count:], payloads[count:]
        self.caller_ids = caller_ids[count:]
        return seats[:count], payloads[:count], caller_ids[:count]

    def cohorts(self, ids: RequestIds) -> list[Cohort]:
        """Return what was gathered as a cohort.

        Nothing is taken when it cannot be one, and only a part when the caller may not ask for
        all: the others are told by themselves.
        """
        count, (target, principal, form, headers) = len(self.seats), self.kind
        endpoint = self._inference.find(target.endpoint)
        if count < _MIN_MEMBERS or endpoint is None:
            return []
        if endpoint.headers or headers:
            self.is_stale = endpoint.headers != tuple([name for name, _ in headers])
            if self.is_stale:
                return []
        count = self._inference.access.admit(principal, target.endpoint, count)
        if not count:
            return []
        seats, payloads, caller_ids = self.take(count)
        arrival_ns = self.arrival_ns(seats[0])
        deadline_ns = arrival_ns + self._inference.timeout_ns(endpoint)
        context = RequestContext("", principal, arrival_ns, deadline_ns)
        if headers:
            context.headers = {name: value for name, value in headers if value is not None}
        request = InferenceRequest(target.endpoint, [], target.version, None, None, form)
        cohort = Cohort(request, context, self, seats, ids.make_many(count), caller_ids, payloads)
        deadlines_ns = self.deadlines_ns(seats, deadline_ns)
        if deadlines_ns:
            context.deadline_ns, cohort.deadlines_ns = min(deadlines_ns), deadlines_ns
        self.seated(cohort)
        if self.is_traced:
            self.is_traced = False
            cohort.traceparents = [self.traceparent(seat) for seat in seats]
        principal.in_flight += count
        self._inference.open_count += count
        return [cohort]

    def left(self, seat: Seat) -> None:
        """Forget a request whose client left before it was part of a cohort."""
        index = self.seats.index(seat)
        del self.seats[index], self.payloads[index], self.caller_ids[index]

    def finish(self, piece: Piece, response: JointResponse, position: int, now_ns: int) -> None:
        """Give back what answered members had taken, and record what became of them."""
        cohort, start, stop = piece
        count, context, inference = stop - start, cohort.context, self._inference
        context.principal.in_flight -= count
        inference.open_count -= count
        inference.ring.append_joint(
            JointExchange(
                context,
                self.kind.target.endpoint,
                self.protocol,
                now_ns - context.arrival_ns,
                cohort.request_ids[start:stop],
                response.timings[position : position + count],
                self.kind.form.rows,
                response.part(position, position + count) if context.captured else None,
            )
        )

    def answer_singly(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Deliver each answer by itself, so that one that cannot be written fails alone."""
        position = 0
        for cohort, start, stop in pieces:
            for index in range(start, stop):
                _, _, responder = cohort.member(index)
                responder.send(response.alone(position))
                position += 1


def tell_apart(cohort: Cohort) -> None:
    """Take a cohort apart if somebody still holds it whole."""
    if cohort.when_apart is not None:
        cohort.when_apart()
