"""A model of texts, whose answer is wrong as soon as filling counts, and a gateway that asks it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from salver.core.clock import ManualClock
from salver.core.errors import SalverError
from salver.core.sequences import CutOutput, PaddedInput, Sequences
from salver.core.settings import EngineSettings
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import AnyArray, Tensor
from salver.engine.client.cohort import joint_response
from salver.engine.worker.host import BatchHost
from salver.engine.worker.job import Job
from salver.engine.worker.loading import Loading
from salver.observe.meter import Meter
from salver.runtimes.base import Batch, BatchRuntime, RuntimeOptions
from salver.wire.framing import Buffer
from salver.wire.messages import (
    BatchPolicy,
    Chunk,
    ChunkMany,
    Infer,
    InferMany,
    Load,
    Message,
    TensorHeader,
)

SIGNATURE = Signature(
    (TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "INT64", (-1, -1), optional=True)),
    (TensorSpec("doubled", "INT64", (-1, -1)), TensorSpec("sum", "INT64", (-1,))),
)
SEQUENCES = Sequences(
    (PaddedInput("ids", 1, -7), PaddedInput("mask")), "mask", (CutOutput("doubled"),)
)


class Texts:
    """Doubles each token and adds up those that the mask lets through; remembers its batches.

    ``clock`` moves by what ``cost_ns`` says of rows and tokens of a batch.
    """

    def __init__(
        self,
        clock: ManualClock | None = None,
        cost_ns: Callable[[int, int], int] = lambda rows, length: 0,
    ) -> None:
        self.batches: list[tuple[int, int, int]] = []
        self._clock = clock
        self._cost_ns = cost_ns

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load nothing."""

    def signature(self) -> Signature | None:
        """Return the fixed signature."""
        return SIGNATURE

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Compute, and note rows, padded length and real tokens."""
        ids, mask = batch["ids"], batch["mask"]
        assert ids.shape == mask.shape
        self.batches.append((*ids.shape, int(mask.sum())))
        if self._clock is not None:
            self._clock.advance(self._cost_ns(*ids.shape) / 1e9)
        return {"doubled": 2 * ids, "sum": (ids * mask).sum(axis=1)}

    def unload(self) -> None:
        """Release nothing."""


class Desk:
    """Reply that keeps what each request was answered."""

    is_blocked = False
    is_terse = True

    def __init__(self, *, joins: bool) -> None:
        self.joins = joins
        self.got: dict[int, list[list[AnyArray] | str]] = {}
        self.order: list[int] = []

    def announce(self, slot: int, ids: tuple[int, ...]) -> bool:
        """Take note of what runs, in order."""
        self.order += ids
        return True

    def is_reading(self) -> bool:
        """Batches begin in the next turn."""
        return False

    def when_unblocked(self, callback: Callable[[], None]) -> None:
        """Never happens."""

    def send(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Take an answer."""
        self.queue(message, buffers)

    def queue(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Take an answer."""
        payload = b"".join([bytes(buffer) for buffer in buffers])
        if isinstance(message, ChunkMany):
            joint = joint_response(message, payload)
            for index, request_id in enumerate(message.ids):
                arrays = [tensor.array() for tensor in joint.alone(index).outputs]
                self.got.setdefault(request_id, []).append(arrays)
        elif isinstance(message, Chunk):
            arrays, position = [], 0
            for header in message.outputs:
                stop = position + header.size_bytes
                raw = payload[position:stop]
                arrays.append(Tensor(header.name, header.datatype, header.shape, raw).array())
                position = stop
            self.got.setdefault(message.id, []).append(arrays)

    def flush(self) -> None:
        """Nothing to do."""

    def begin(self, job: Job) -> None:
        """Nothing to remember."""

    def fail(self, job: Job, error: SalverError) -> None:
        """Take a refusal."""
        for request_id in job.ids:
            self.got.setdefault(request_id, []).append(error.code)

    def forget(self, job: Job) -> None:
        """Nothing to forget."""


def host_of(
    policy: BatchPolicy, runtime: BatchRuntime, clock: ManualClock, *, lanes: bool = True
) -> BatchHost:
    """Return a version that is ready."""
    load = Load("m:1", "0" * 64, "test", (), "local", SIGNATURE, policy)
    loading: Loading[BatchRuntime] = Loading(
        load, lambda _: runtime, clock, Meter(), lambda: None, 60.0
    )
    loading.state, loading.runtime = "ready", runtime
    return BatchHost(loading, EngineSettings(runner="inline", lanes=lanes), clock, Meter())


def headers_of(arrays: Sequence[AnyArray], names: Sequence[str]) -> tuple[TensorHeader, ...]:
    """Describe one request's inputs."""
    return tuple(
        TensorHeader(name, "INT64", array.shape, array.nbytes)
        for name, array in zip(names, arrays, strict=True)
    )


def ask(
    host: BatchHost,
    desk: Desk,
    request_id: int,
    ids: AnyArray,
    *,
    priority: int = 0,
    wait_ms: int = 1000,
) -> Job:
    """Ask with a text and no mask."""
    headers = headers_of([ids], ["ids"])
    infer = Infer(request_id, "m:1", headers, wait_ms * 1000, "", priority=priority)
    return host.accept(desk, infer, ids.tobytes())


def ask_many(
    host: BatchHost, desk: Desk, first_id: int, texts: Sequence[AnyArray], *, priority: int = 0
) -> None:
    """Do so with texts of one shape, as a cohort."""
    numbers = tuple(range(first_id, first_id + len(texts)))
    headers = headers_of(texts[:1], ["ids"])
    message = InferMany(numbers, "m:1", headers, (1_000_000,), (), priority=priority)
    host.accept_many(desk, message, b"".join([text.tobytes() for text in texts]))
