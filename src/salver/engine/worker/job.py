"""One request inside a worker, from its frame to its answer."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from salver.core.errors import SalverError, WireError
from salver.engine.worker.form import ALONE, Form, form_of
from salver.wire.framing import Buffer
from salver.wire.messages import Infer, InferMany, Message

_US_NS = 1000


class Reply(Protocol):
    """Where a job's answer goes: the link it came from."""

    @property
    def joins(self) -> bool:
        """Tell whether the receiver takes the answers of many jobs in one message."""
        ...

    @property
    def is_terse(self) -> bool:
        """Tell whether the receiver takes one value for a column of equal ones."""
        ...

    @property
    def is_blocked(self) -> bool:
        """Tell whether the receiver has stopped reading."""
        ...

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

    ``form`` says what each of them asks; the payload is theirs one after the other, in the order
    of ``ids``. ``rows`` is of one request, and 0 where the inputs have no common first axis. Jobs
    with equal ``key`` may share a batch; ALONE may not, and is one request. ``deadline_ns`` is the
    first of several; ``remaining_us`` has what each had left at ``arrival_ns``, or nothing where
    all have the same. ``priority`` is most urgent when it is least, ``length`` counts the tokens of
    a row. ``ready`` tells that the steps before the model were taken. ``gone`` are those of several
    that nobody waits for. ``credit`` is for streams, and ``flow`` is set while the job is an open
    one.
    """

    reply: Reply
    ids: tuple[int, ...]
    form: Form
    payload: Buffer
    arrival_ns: int
    deadline_ns: int
    rows: int
    key: tuple[object, ...]
    remaining_us: tuple[int, ...] = ()
    cancelled: bool = False
    flow: Flow | None = None
    gone: frozenset[int] = frozenset()
    credit: int = 0
    priority: int = 0
    length: int = 1
    ready: bool = False

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
        if self.remaining_us:
            part.remaining_us = self.remaining_us[start:stop]
            part.deadline_ns = self.arrival_ns + min(part.remaining_us) * _US_NS
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


def ids_of(jobs: Sequence[Job]) -> tuple[int, ...]:
    """Return the ids of all requests of some jobs."""
    if len(jobs) == 1:
        return jobs[0].ids
    return tuple([request_id for job in jobs for request_id in job.ids])


def rows_of(jobs: Sequence[Job]) -> int:
    """Return the rows of all requests of some jobs."""
    first = jobs[0]
    if len(jobs) == 1:
        return first.rows * len(first.ids)
    return sum([job.rows * len(job.ids) for job in jobs])


def one_job(reply: Reply, infer: Infer, payload: Buffer, now_ns: int, *, batches: bool) -> Job:
    """Return the job of a request that came by itself."""
    form = form_of(infer.inputs, infer.outputs)
    key = form.key if batches else ALONE
    deadline_ns = now_ns + infer.remaining_us * _US_NS
    job = Job(reply, (infer.id,), form, payload, now_ns, deadline_ns, form.rows, key)
    job.credit = infer.credit
    return job


def many_jobs(
    reply: Reply, message: InferMany, payload: Buffer, now_ns: int, *, batches: bool
) -> list[Job]:
    """Return a cohort as one job, or as one for each request where they must run alone.

    Raises ``WireError`` when the message does not add up.
    """
    form, ids, times = form_of(message.inputs, message.outputs), message.ids, message.remaining_us
    count = len(ids)
    check_cohort(message, len(payload), form.size_bytes)
    first_us = times[0]
    if len(times) == 1 or times.count(first_us) == count:
        times = ()
    else:
        first_us = min(times)
    key = form.key if batches else ALONE
    deadline_ns = now_ns + first_us * _US_NS
    job = Job(reply, ids, form, payload, now_ns, deadline_ns, form.rows, key, times)
    return [job] if key is not ALONE and form.is_fixed else job.each()


def check_cohort(message: InferMany, payload_bytes: int, member_bytes: int) -> None:
    """Raise ``WireError`` for a cohort that does not add up.

    All of its columns are as long as ``ids``, but for times that are the same for all, of which
    there may be one, and ids of requests, which may be left out.
    """
    count, times, names = len(message.ids), message.remaining_us, message.request_ids
    if (
        not count
        or member_bytes * count != payload_bytes
        or len(times) not in (1, count)
        or len(names) not in (0, count)
    ):
        raise WireError(f"a cohort of {payload_bytes} bytes does not fit its headers")
