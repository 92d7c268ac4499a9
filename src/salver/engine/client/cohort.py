"""Requests of one loop turn that differ in their values only: one message there, one back.

A *cohort* asks the same variant, for the same outputs, with inputs of the same names, datatypes
and shapes. It shares a message and nothing else: in the worker, and whenever something goes
wrong, each of its requests stands for itself.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from salver.core.cohort import Cohort, most_members
from salver.core.datatypes import ITEM_SIZES, size_of_elements
from salver.core.errors import WireError
from salver.core.request import JointResponse, RequestForm, form_of
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.engine.client.pending import Pending, headers_of, remaining_times_us
from salver.wire.framing import LARGE_BYTES, Buffer
from salver.wire.messages import ChunkMany, InferMany, TensorHeader

_MAX_MEMBER_BYTES: Final = LARGE_BYTES // 4
_MAX_KNOWN: Final = 256


def goes_together(pending: Pending) -> bool:
    """Tell whether a request may share a message.

    Alone go those with parameters of their own (streams are among them), those whose inputs say
    by their bytes how long they are, and large ones, which are sent without a copy.
    """
    request = pending.request
    size = (request.form or form_of(request)).size_bytes
    return size is not None and size <= _MAX_MEMBER_BYTES and not request.parameters


def cohorts(turn: Sequence[Pending]) -> Iterator[list[Pending]]:
    """Yield requests that go together in groups that may share a message, oldest first."""
    groups: dict[tuple[object, ...], list[Pending]] = {}
    for pending in turn:
        context = pending.context
        key = (pending.request.form, context.variant, context.priority)
        group = groups.get(key)
        if group is None:
            groups[key] = [pending]
        else:
            group.append(pending)
    for group in groups.values():
        limit = most_members(form_of(group[0].request))
        if len(group) <= limit:
            yield group
        else:
            for start in range(0, len(group), limit):
                yield group[start : start + limit]


def infer_many(
    group: Sequence[Pending], now_ns: int, *, terse: bool
) -> tuple[InferMany, list[Buffer]]:
    """Return the message that asks for a cohort, and its payload.

    ``terse`` is for workers that understand columns of one value.
    """
    request, first = group[0].request, group[0].context
    contexts = [pending.context for pending in group]
    traced = any(context.traceparent is not None for context in contexts)
    times_us = remaining_times_us([context.deadline_ns for context in contexts], now_ns)
    message = InferMany(
        tuple([pending.id for pending in group]),
        first.variant,
        headers_of(request.inputs),
        times_us[:1] if terse and times_us.count(times_us[0]) == len(times_us) else times_us,
        () if terse else tuple([context.request_id for context in contexts]),
        request.outputs,
        first.priority,
        tuple([context.traceparent for context in contexts]) if traced else (),
    )
    if len(request.inputs) == 1:
        return message, [pending.request.inputs[0].buffer for pending in group]
    return message, [tensor.buffer for pending in group for tensor in pending.request.inputs]


def infer_cohort(
    cohort: Cohort, ids: tuple[int, ...], now_ns: int, *, terse: bool
) -> tuple[InferMany, Buffer]:
    """Return the message that asks for a cohort that came as one, and its payload.

    ``terse`` is as with ``infer_many``.
    """
    context, form = cohort.context, cohort.request.form
    assert form is not None
    times_us = remaining_times_us(cohort.deadlines_ns or [context.deadline_ns], now_ns)
    if not (terse or cohort.deadlines_ns):
        times_us *= len(ids)
    message = InferMany(
        ids,
        context.variant,
        _headers_for(form),
        times_us,
        () if terse else tuple(cohort.request_ids),
        form.outputs,
        context.priority,
        tuple(cohort.traceparents),
    )
    return message, b"".join(cohort.payloads)


_headers: dict[RequestForm, tuple[TensorHeader, ...]] = {}


def _headers_for(form: RequestForm) -> tuple[TensorHeader, ...]:
    """Return the headers of one request of a form."""
    headers = _headers.get(form)
    if headers is None:
        if len(_headers) >= _MAX_KNOWN:
            _headers.clear()
        headers = tuple([TensorHeader(*one, size_of_elements(*one[1:])) for one in form.inputs])
        _headers[form] = headers
    return headers


class _Shares(NamedTuple):
    """What joint answers with the same headers have in common; ``problem`` says why there are none.

    ``size_bytes`` is what each member's share takes.
    """

    rows: int
    size_bytes: int
    problem: str


_shares: dict[tuple[TensorHeader, ...], _Shares] = {}


def joint_response(message: ChunkMany, payload: Buffer) -> JointResponse:
    """Return the answers of a cohort, uncut; raises ``WireError`` when they do not add up."""
    count, headers, queue_ns = len(message.ids), message.outputs, message.queue_ns
    shares = _shares.get(headers)
    if shares is None:
        shares = _learn(headers)
    if shares.problem:
        raise WireError(shares.problem)
    if not count or shares.size_bytes * count != len(payload) or len(queue_ns) not in (1, count):
        raise WireError(
            f"a joint answer of {len(payload)} bytes for {count} does not fit its headers; restart "
            "the worker"
        )
    outputs: list[Tensor] = []
    position, rows = 0, shares.rows
    for header in headers:
        stop = position + header.size_bytes * count
        shape = (rows * count, *header.shape[1:])
        outputs.append(Tensor(header.name, header.datatype, shape, payload[position:stop]))
        position = stop
    return JointResponse(outputs, rows, _timings(message.timing, queue_ns, count))


def _learn(headers: tuple[TensorHeader, ...]) -> _Shares:
    """Look at the headers of a joint answer, and remember what was found."""
    rows = headers[0].shape[0] if headers and headers[0].shape else 0
    problem = ""
    for header in headers:
        problem = problem or _problem(header, rows)
    shares = _Shares(rows, sum([header.size_bytes for header in headers]), problem)
    if len(_shares) >= _MAX_KNOWN:
        _shares.clear()
    _shares[headers] = shares
    return shares


def _problem(header: TensorHeader, rows: int) -> str:
    """Return why a share of this header cannot be cut out of a joint answer."""
    name = f"output {header.name!r} of a joint answer"
    if not header.shape or header.shape[0] != rows:
        return f"{name} has no rows to cut"
    if min(header.shape) < 0:
        return f"{name} has a negative dimension"
    item_bytes = ITEM_SIZES.get(header.datatype)
    if item_bytes is None:
        return f"{name} has elements of no fixed size: {header.datatype}"
    if item_bytes * math.prod(header.shape) != header.size_bytes:
        return f"{name} has {header.size_bytes} bytes for shape {list(header.shape)}"
    return ""


def _timings(common: Timing, queue_ns: tuple[int, ...], count: int) -> list[Timing]:
    """Return each member's timing; the same object for those that waited equally long."""
    first = queue_ns[0]
    if len(queue_ns) == 1 or queue_ns.count(first) == count:
        return [msgspec.structs.replace(common, queue_ns=first)] * count
    timings = {ns: msgspec.structs.replace(common, queue_ns=ns) for ns in set(queue_ns)}
    return [timings[ns] for ns in queue_ns]
