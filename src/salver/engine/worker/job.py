"""One request inside a worker, from its frame to its answer."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from salver.core.datatypes import ITEM_SIZES
from salver.core.errors import SalverError, WireError
from salver.wire.framing import Buffer
from salver.wire.messages import Infer, InferMany, Message, TensorHeader

ALONE: tuple[object, ...] = ()


class Reply(Protocol):
    """Where a job's answer goes: the link it came from."""

    @property
    def joins(self) -> bool:
        """Tell whether the receiver takes the answers of many jobs in one message."""
        ...

    @property
    def is_blocked(self) -> bool:
        """Tell whether the receiver has stopped reading."""
        ...

    @property
    def is_reading(self) -> bool:
        """Tell whether ``run_now`` of each host that got something will be called in this turn."""
        ...

    def announce(self, slot: int, ids: tuple[int, ...]) -> bool:
        """Let the receiver know what is about to run, so that it outlives this process.

        ``slot`` is the version's. False when it is not certain; ``when_unblocked`` tells when to
        try again.
        """
        ...

    def when_unblocked(self, callback: Callable[[], None]) -> None:
        """Call back once, when the receiver reads again or is gone."""
        ...

    def send(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Send one message of the answer."""
        ...

    def queue(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Keep one message of the answer for ``flush``."""
        ...

    def flush(self) -> None:
        """Write now what was sent or queued."""
        ...

    def begin(self, job: "Job") -> None:
        """Remember a job that was accepted, or the rest of one that was cut."""
        ...

    def fail(self, job: "Job", error: SalverError) -> None:
        """End a job with an error."""
        ...

    def forget(self, job: "Job") -> None:
        """Drop a job that has had its final answer or needs none."""
        ...


class Flow(Protocol):
    """An open stream."""

    def grant(self, chunks: int) -> None:
        """Let so many more chunks through."""
        ...

    def cancel(self) -> None:
        """End it; nobody listens."""
        ...


class Job(msgspec.Struct, eq=False):
    """A request waiting or running, or several that came as one and have stayed together.

    ``infer`` says what each of them asks; the payload is theirs one after the other, in the order
    of ``ids``. ``rows`` is of one request, and 0 where the inputs have no common first axis. Jobs
    with equal ``key`` may share a batch; ALONE may not, and is one request. ``gone`` are those of
    several that nobody waits for. ``flow`` is set while the job is an open stream.
    """

    reply: Reply
    ids: tuple[int, ...]
    infer: Infer
    payload: Buffer
    arrival_ns: int
    deadline_ns: int
    rows: int
    key: tuple[object, ...]
    cancelled: bool = False
    flow: Flow | None = None
    gone: frozenset[int] = frozenset()

    @property
    def id(self) -> int:
        """The id of the first request."""
        return self.ids[0]

    @property
    def count(self) -> int:
        """How many requests these are."""
        return len(self.ids)

    @property
    def all_rows(self) -> int:
        """The rows of all requests together."""
        return self.rows * len(self.ids)

    def part(self, start: int, stop: int) -> "Job":
        """Return the requests from ``start`` to before ``stop`` as a job of their own."""
        ids, size = self.ids[start:stop], len(self.payload) // len(self.ids)
        part = msgspec.structs.replace(
            self,
            ids=ids,
            payload=self.payload[start * size : stop * size],
            gone=self.gone.intersection(ids),
        )
        part.cancelled = self.cancelled or len(part.gone) == len(ids)
        return part

    def each(self) -> "list[Job]":
        """Return every request as a job of its own."""
        count = len(self.ids)
        return [self] if count == 1 else [self.part(i, i + 1) for i in range(count)]

    def cancel(self, request_id: int) -> None:
        """Take note that nobody waits for one of the requests."""
        self.gone |= {request_id}
        self.cancelled = len(self.gone) == len(self.ids)


def one_job(reply: Reply, infer: Infer, payload: Buffer, now_ns: int, *, batches: bool) -> Job:
    """Return the job of a request that came by itself."""
    rows = _rows(infer.inputs)
    key = _key(infer) if batches and rows > 0 else ALONE
    deadline_ns = now_ns + infer.remaining_us * 1000
    return Job(reply, (infer.id,), infer, payload, now_ns, deadline_ns, rows, key)


def many_jobs(
    reply: Reply, message: InferMany, payload: Buffer, now_ns: int, *, batches: bool
) -> list[Job]:
    """Return a cohort as one job, or as several where its requests cannot stay together.

    Raises ``WireError`` when the message does not add up.
    """
    inputs, ids, size = message.inputs, message.ids, member_bytes(message, payload)
    infer = Infer(0, message.variant, inputs, 0, "", message.outputs, None, message.priority)
    rows = _rows(inputs)
    key = _key(infer) if batches and rows > 0 else ALONE
    deadlines = [now_ns + remaining_us * 1000 for remaining_us in message.remaining_us]
    if (
        key is not ALONE
        and deadlines.count(deadlines[0]) == len(ids)
        and all(header.datatype in ITEM_SIZES for header in inputs)
    ):
        return [Job(reply, ids, infer, payload, now_ns, deadlines[0], rows, key)]
    jobs: list[Job] = []
    start = 0
    for request_id, deadline_ns in zip(ids, deadlines, strict=True):
        stop = start + size
        part = payload[start:stop]
        jobs.append(Job(reply, (request_id,), infer, part, now_ns, deadline_ns, rows, key))
        start = stop
    return jobs


def member_bytes(message: InferMany, payload: Buffer) -> int:
    """Return each member's share of the payload; raises ``WireError`` if it does not add up."""
    count, size = len(message.ids), sum([header.size_bytes for header in message.inputs])
    per_member = (message.remaining_us, message.request_ids)
    if not count or size * count != len(payload) or any(len(one) != count for one in per_member):
        raise WireError(f"a cohort of {len(payload)} bytes does not fit its headers")
    return size


def _rows(inputs: tuple[TensorHeader, ...]) -> int:
    """Return the common first dimension, or 0 when there is none."""
    if not inputs or not inputs[0].shape:
        return 0
    rows = inputs[0].shape[0]
    for header in inputs:
        if not header.shape or header.shape[0] != rows:
            return 0
    return rows


def _key(infer: Infer) -> tuple[object, ...]:
    inputs = infer.inputs
    if len(inputs) == 1:
        only = inputs[0]
        return (only.name, only.datatype, only.shape[1:], infer.outputs)
    return (
        *[(header.name, header.datatype, header.shape[1:]) for header in inputs],
        infer.outputs,
    )
