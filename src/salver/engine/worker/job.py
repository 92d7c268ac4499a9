"""One request inside a worker, from its frame to its answer."""

from collections.abc import Callable, Sequence
from typing import Protocol

from salver.core.errors import SalverError
from salver.wire.framing import Buffer
from salver.wire.messages import Infer, Message, TensorHeader

ALONE: tuple[object, ...] = ()


class Reply(Protocol):
    """Where a job's answer goes: the link it came from."""

    @property
    def is_blocked(self) -> bool:
        """Tell whether the receiver has stopped reading."""
        ...

    def when_unblocked(self, callback: Callable[[], None]) -> None:
        """Call back once, when the receiver reads again or is gone."""
        ...

    def send(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Send one message of the answer."""
        ...

    def flush(self) -> None:
        """Write now what was sent."""
        ...

    def begin(self, job: "Job") -> None:
        """Remember a job that was accepted."""
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


class Job:
    """A request waiting or running. Jobs with equal ``key`` may share a batch; ALONE may not.

    ``flow`` is set while the job is an open stream.
    """

    __slots__ = (
        "arrival_ns",
        "cancelled",
        "deadline_ns",
        "flow",
        "id",
        "infer",
        "key",
        "payload",
        "reply",
        "rows",
    )

    def __init__(
        self, reply: Reply, infer: Infer, payload: Buffer, arrival_ns: int, *, batches: bool
    ) -> None:
        self.reply = reply
        self.id = infer.id
        self.infer = infer
        self.payload = payload
        self.arrival_ns = arrival_ns
        self.deadline_ns = arrival_ns + infer.remaining_us * 1000
        self.cancelled = False
        self.flow: Flow | None = None
        self.rows = _rows(infer.inputs)
        self.key = _key(infer) if batches and self.rows > 0 else ALONE


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
