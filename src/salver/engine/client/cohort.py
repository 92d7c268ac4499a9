"""Requests of one loop turn that differ in their values only: one message there, one back.

A *cohort* asks the same variant, for the same outputs, with inputs of the same names, datatypes
and shapes. It shares a message and nothing else: in the worker, and whenever something goes
wrong, each of its requests stands for itself.
"""

from collections.abc import Iterator, Sequence

import msgspec

from salver.core.cohort import Cohort, most_members
from salver.core.datatypes import BYTES, size_of_elements
from salver.core.errors import InvalidTensor, WireError
from salver.core.request import JointResponse, form_of
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.engine.client.pending import Pending, headers_of, remaining_us
from salver.wire.framing import LARGE_BYTES, Buffer
from salver.wire.messages import ChunkMany, InferMany, TensorHeader

_MAX_MEMBER_BYTES = LARGE_BYTES // 4


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


def infer_many(group: Sequence[Pending], now_ns: int) -> tuple[InferMany, list[Buffer]]:
    """Return the message that asks for a cohort, and its payload."""
    request, first = group[0].request, group[0].context
    contexts = [pending.context for pending in group]
    traced = any(context.traceparent is not None for context in contexts)
    message = InferMany(
        tuple([pending.id for pending in group]),
        first.variant,
        headers_of(request.inputs),
        tuple([remaining_us(context.deadline_ns, now_ns) for context in contexts]),
        tuple([context.request_id for context in contexts]),
        request.outputs,
        first.priority,
        tuple([context.traceparent for context in contexts]) if traced else (),
    )
    if len(request.inputs) == 1:
        return message, [pending.request.inputs[0].buffer for pending in group]
    return message, [tensor.buffer for pending in group for tensor in pending.request.inputs]


def infer_cohort(cohort: Cohort, ids: tuple[int, ...], now_ns: int) -> tuple[InferMany, Buffer]:
    """Return the message that asks for a cohort that came as one, and its payload."""
    context, form = cohort.context, cohort.request.form
    assert form is not None
    deadlines_ns = cohort.deadlines_ns or [context.deadline_ns]
    times_us = [remaining_us(deadline_ns, now_ns) for deadline_ns in deadlines_ns]
    if not cohort.deadlines_ns:
        times_us *= len(ids)
    message = InferMany(
        ids,
        context.variant,
        tuple([TensorHeader(*one, size_of_elements(*one[1:])) for one in form.inputs]),
        tuple(times_us),
        tuple(cohort.request_ids),
        form.outputs,
        context.priority,
        tuple(cohort.traceparents),
    )
    return message, b"".join(cohort.payloads)


def joint_response(message: ChunkMany, payload: Buffer) -> JointResponse:
    """Return the answers of a cohort, uncut; raises ``WireError`` when they do not add up."""
    count = len(message.ids)
    if not count:
        raise WireError("a joint answer to nobody")
    outputs: list[Tensor] = []
    position = 0
    rows = message.outputs[0].shape[0] if message.outputs and message.outputs[0].shape else 0
    for header in message.outputs:
        stop = position + header.size_bytes * count
        if not header.shape or header.shape[0] != rows:
            raise WireError(f"output {header.name!r} of a joint answer has no rows to cut")
        shape = (rows * count, *header.shape[1:])
        tensor = Tensor(header.name, header.datatype, shape, payload[position:stop])
        _check(tensor)
        outputs.append(tensor)
        position = stop
    if position != len(payload) or len(message.queue_ns) != count:
        raise WireError(
            f"a joint answer of {len(payload)} bytes does not fit its headers; restart the worker"
        )
    return JointResponse(outputs, rows, _timings(message.timing, message.queue_ns))


def _timings(common: Timing, queue_ns: tuple[int, ...]) -> list[Timing]:
    """Return each member's timing; the same object for those that waited equally long."""
    first = queue_ns[0]
    if queue_ns.count(first) == len(queue_ns):
        return [msgspec.structs.replace(common, queue_ns=first)] * len(queue_ns)
    timings = {ns: msgspec.structs.replace(common, queue_ns=ns) for ns in set(queue_ns)}
    return [timings[ns] for ns in queue_ns]


def _check(tensor: Tensor) -> None:
    if tensor.datatype == BYTES:
        raise WireError(f"output {tensor.name!r} of a joint answer has elements of no fixed size")
    try:
        tensor.check()
    except InvalidTensor as error:
        raise WireError(f"a joint answer does not add up: {error.message}") from error
