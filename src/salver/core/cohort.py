"""Requests that differ in their values only: one thing, for as long as nothing tells them apart.

Callers that ask the same endpoint in the same form at the same moment need not be routed, checked
and counted one by one. What they have in common is kept once, what is each member's own in columns.
Whoever on the path cannot treat them alike takes the cohort apart, and each goes on by itself.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from salver.core.context import RequestContext
from salver.core.datatypes import size_of_elements
from salver.core.errors import fault_of
from salver.core.handler import Handler, Responder
from salver.core.request import InferenceRequest, JointResponse, RequestForm
from salver.core.tensor import Tensor

MAX_MEMBERS = 256
_MAX_BYTES = 64 * 1024 - 1

Member = tuple[InferenceRequest, RequestContext, Responder]


def most_members(form: RequestForm) -> int:
    """Return how many requests of a form may be one cohort."""
    return min(MAX_MEMBERS, _MAX_BYTES // max(1, form.size_bytes or 0))


class Piece(NamedTuple):
    """Neighbours in a cohort: the members from ``start`` to before ``stop``."""

    cohort: "Cohort"
    start: int
    stop: int


class Audience(Protocol):
    """Who waits for the answers to cohorts. Neither method may raise."""

    def seated(self, cohort: "Cohort") -> None:
        """Take note that these seats belong to this cohort, and of their ids."""
        ...

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Deliver final answers; the response holds those of all pieces, in order."""
        ...

    def responder(
        self, cohort: "Cohort", index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Return the responder of one member, which is by itself from now on."""
        ...


class Cohort(msgspec.Struct, eq=False):
    """Several requests of one principal for one endpoint in one form.

    ``request`` and ``context`` are common: the former has a form and no inputs, the latter no ids,
    and the arrival of the first. ``payloads`` hold each member's inputs back to back, ``seats`` are
    what the audience knows its callers by, ``traceparents`` is empty when nobody sent one.
    ``deadlines_ns`` is empty where the context's is that of all; else the context has the first.
    ``when_apart`` is set by whoever holds the cohort, and called when a member must be told from
    the others.
    """

    request: InferenceRequest
    context: RequestContext
    audience: Audience
    seats: list[Any]
    request_ids: list[str]
    caller_ids: list[str | None]
    payloads: list[bytes]
    traceparents: list[str | None] = []
    deadlines_ns: list[int] = []
    when_apart: Callable[[], None] | None = None
    is_apart: bool = False

    def __len__(self) -> int:
        """Count the members."""
        return len(self.request_ids)

    def take_apart(self, start: int = 0) -> Iterator[Member]:
        """Yield the members from ``start`` on, each as a request of its own."""
        self.when_apart, self.is_apart = None, True
        for index in range(start, len(self.request_ids)):
            yield self.member(index)

    def parted(self, groups: Sequence[Sequence[int]]) -> "list[Cohort]":
        """Return a cohort for each group of members, whose audience has to be told.

        To be called before anybody holds the cohort, which is not used any more.
        """
        if len(groups) == 1:
            return [self]

        def some(column: list[Any], group: Sequence[int]) -> list[Any]:
            return [column[index] for index in group] if column else []

        parts: list[Cohort] = []
        for group in groups:
            context = msgspec.structs.replace(self.context)
            part = msgspec.structs.replace(
                self,
                context=context,
                seats=some(self.seats, group),
                request_ids=some(self.request_ids, group),
                caller_ids=some(self.caller_ids, group),
                payloads=some(self.payloads, group),
                traceparents=some(self.traceparents, group),
                deadlines_ns=some(self.deadlines_ns, group),
            )
            if part.deadlines_ns:
                context.deadline_ns = min(part.deadlines_ns)
            parts.append(part)
        return parts

    def cut(self, start: int) -> list[Member]:
        """Remove the members from ``start`` on and return each as a request of its own.

        To be called before anybody holds the cohort.
        """
        members = [self.member(index) for index in range(start, len(self.request_ids))]
        for column in (
            self.seats,
            self.request_ids,
            self.caller_ids,
            self.payloads,
            self.traceparents,
            self.deadlines_ns,
        ):
            del column[start:]
        return members

    def member(self, index: int) -> Member:
        """Return one member as a request of its own."""
        assert self.request.form is not None
        inputs = inputs_of(self.request.form, self.payloads[index])
        request = msgspec.structs.replace(self.request, inputs=inputs)
        context = msgspec.structs.replace(
            self.context,
            request_id=self.request_ids[index],
            caller_id=self.caller_ids[index],
            traceparent=self.traceparents[index] if self.traceparents else None,
        )
        if self.deadlines_ns:
            context.deadline_ns = self.deadlines_ns[index]
        return request, context, self.audience.responder(self, index, request, context)


def inputs_of(form: RequestForm, payload: bytes) -> list[Tensor]:
    """Return the inputs of a request of this form, which lie back to back in the payload."""
    inputs: list[Tensor] = []
    position = 0
    for name, datatype, shape in form.inputs:
        stop = position + size_of_elements(datatype, shape)
        inputs.append(Tensor(name, datatype, shape, payload[position:stop]))
        position = stop
    return inputs


class CohortHandler(Handler, Protocol):
    """A handler that can pass on cohorts as they are."""

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Take over the cohorts of one turn of the loop, or take them apart; raises nothing."""
        ...


def many_of(handler: Handler) -> Callable[[Sequence[Cohort]], None]:
    """Return how a handler takes cohorts: as they are if it can, member by member if not."""
    many: Callable[[Sequence[Cohort]], None] | None = getattr(handler, "many", None)
    if many is not None:
        return many

    def each(cohorts: Sequence[Cohort]) -> None:
        for cohort in cohorts:
            one_by_one(handler, cohort)

    return each


def one_by_one(handler: Handler, cohort: Cohort) -> None:
    """Hand every member to a handler as a request of its own; a fault ends one member only."""
    for request, context, responder in cohort.take_apart():
        try:
            handler(request, context, responder)
        except Exception as error:  # those after it must be answered too
            responder.fail(fault_of(error))
