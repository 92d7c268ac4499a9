"""Requests that answer in chunks, with credit from the receiver."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from salver.core.clock import Clock
from salver.core.errors import (
    InvalidTensor,
    ModelFailed,
    NotReady,
    Overloaded,
    SalverError,
    WireError,
)
from salver.core.timing import Timing
from salver.engine.worker.batch import assemble, whole
from salver.engine.worker.job import Job, Reply, check_cohort, one_job
from salver.engine.worker.loading import Loading
from salver.engine.worker.pauses import Pauses
from salver.engine.worker.refusals import RETRY_AFTER_S, late, refusal
from salver.engine.worker.run import failure
from salver.runtimes.base import Batch, StreamRuntime
from salver.wire.framing import Buffer
from salver.wire.messages import BatchStarted, Chunk, Infer, InferMany, Load

# A caller that asked for no stream waits for the end, so nothing is gained by holding back.
_UNARY_CREDIT = 1_000_000


class StreamSink:
    """One open stream: carries chunks from the runtime's thread to the event loop.

    ``chunk`` blocks the runtime's thread without credit. ``cancel_runtime`` is what the runtime
    returned from ``submit``.
    """

    def __init__(self, job: Job, clock: Clock, ended: Callable[[Job], None], *, cold: bool) -> None:
        self.cancel_runtime: Callable[[], None] | None = None
        self._job = job
        self._clock = clock
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._started_ns = clock.monotonic_ns()
        self._cold = cold
        self._sequence = 0
        self._credit = threading.Semaphore(job.credit or _UNARY_CREDIT)
        self._closed = threading.Event()

    def grant(self, chunks: int) -> None:
        """Let so many more chunks through."""
        if chunks > 0:
            self._credit.release(chunks)

    def cancel(self) -> None:
        """Nobody listens any more; a blocked runtime thread wakes up."""
        self._close()
        self._credit.release()
        if self.cancel_runtime is not None:
            self.cancel_runtime()

    def chunk(self, outputs: Batch) -> bool:
        """Deliver one chunk; see ``runtimes.base.Sink``."""
        self._credit.acquire()
        if self._closed.is_set():
            return False
        try:
            self._post(outputs, None)
        except InvalidTensor as error:
            self.fail(ModelFailed(f"a chunk cannot be sent: {error.message}"))
            return False
        return True

    def finish(self) -> None:
        """Send the final, empty chunk."""
        if not self._closed.is_set():
            run_ns = self._clock.monotonic_ns() - self._started_ns
            queue_ns = self._started_ns - self._job.arrival_ns
            self._post({}, Timing(queue_ns, 0, run_ns, cold=self._cold))
            self._close()

    def fail(self, error: SalverError) -> None:
        """End the stream with an error."""
        if not self._closed.is_set():
            self._loop.call_soon_threadsafe(self._job.reply.fail, self._job, error)
            self._close()

    def _close(self) -> None:
        self._closed.set()
        self._loop.call_soon_threadsafe(self._ended, self._job)

    def _post(self, outputs: Batch, timing: Timing | None) -> None:
        headers, buffers = whole(outputs)
        chunk = Chunk(self._job.id, self._sequence, timing is not None, headers, timing)
        self._sequence += 1
        self._loop.call_soon_threadsafe(self._deliver, chunk, buffers)

    def _deliver(self, chunk: Chunk, buffers: list[Buffer]) -> None:
        job = self._job
        if job.cancelled:
            return
        try:
            job.reply.send(chunk, buffers)
        except WireError as error:
            job.reply.fail(job, ModelFailed(f"a chunk cannot be sent: {error.message}"))
            self.cancel()
        if chunk.final:
            job.reply.forget(job)


class StreamHost:
    """One loaded version behind a ``StreamRuntime``; streams pass the batcher by.

    Those that come while it is on its way back into memory begin when it is there.
    """

    def __init__(self, loading: Loading[StreamRuntime], clock: Clock) -> None:
        self.loading = loading
        self.last_used_ns = clock.monotonic_ns()
        self._clock = clock
        self._open: dict[int, StreamSink] = {}
        self._waiting: list[Job] = []
        self._pauses = Pauses()
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"load-{loading.load.variant}")
        loading.finished = self._loaded

    @property
    def load(self) -> Load:
        """The version this is."""
        return self.loading.load

    @property
    def idle(self) -> bool:
        """Tell whether no stream is open or waits and nothing loads."""
        return not (self._open or self._waiting or self.loading.active)

    def update(self, load: Load) -> None:
        """Take over a changed policy of the same version."""
        self.loading.load = load

    def begin_load(self) -> None:
        """Load in a thread of this version."""
        self.loading.begin(self._threads)

    def _loaded(self) -> None:
        """Begin what waited for the model, or end it with what loading failed with."""
        waiting, self._waiting = self._waiting, []
        runtime, error = self.loading.runtime, self.loading.error
        for job in waiting:
            if job.cancelled:
                continue
            if runtime is not None:
                self._begin(runtime, job, cold=True)
            elif error is not None:
                job.reply.fail(job, error)
        if error is None:
            self._pauses.end()
        elif self.loading.may_be_mended:
            self._loop.call_later(self._pauses.take(), self._load_again)
        elif self.loading.returns:
            self._loop.call_later(RETRY_AFTER_S, self.loading.rearm)

    def _load_again(self) -> None:
        if self.loading.state == "failed" and not self.loading.active:
            self.loading.retry()
            self.begin_load()

    def accept(self, reply: Reply, infer: Infer, payload: Buffer) -> Job:
        """Begin a stream, or refuse it at once."""
        job = one_job(reply, infer, payload, self._clock.monotonic_ns(), batches=False)
        refused = refusal(self.loading, len(self._open) + len(self._waiting))
        runtime = self.loading.runtime
        if refused is None and runtime is None and self.loading.returns:
            return self._keep(reply, job)
        if refused is None and runtime is None:
            refused = NotReady(f"{infer.variant} is not loaded", retry_after_s=RETRY_AFTER_S)
        if refused is None and infer.remaining_us <= 0:
            refused = late()
        if refused is not None or runtime is None:
            reply.fail(job, refused or late())
            return job
        self._begin(runtime, job, cold=False)
        return job

    def _keep(self, reply: Reply, job: Job) -> Job:
        """Let a stream wait for the model, and see to it that it comes."""
        reply.begin(job)
        self._waiting.append(job)
        if not self.loading.active:
            self.loading.wanted_ns = job.arrival_ns
            self.begin_load()
        return job

    def _begin(self, runtime: StreamRuntime, job: Job, *, cold: bool) -> None:
        reply = job.reply
        reply.begin(job)
        reply.send(BatchStarted((job.id,)))
        reply.flush()
        if reply.is_blocked:
            busy = "this worker's gateway does not read its answers"
            reply.fail(job, Overloaded(busy, retry_after_s=RETRY_AFTER_S))
            return
        self.last_used_ns = self._clock.monotonic_ns()
        self._submit(runtime, job, cold=cold)

    def accept_many(self, reply: Reply, message: InferMany, payload: Buffer) -> None:
        """Begin a stream for each request of a cohort; raises ``WireError`` for a broken one."""
        size = sum([header.size_bytes for header in message.inputs])
        check_cohort(message, len(payload), size)
        times, names = message.remaining_us, message.request_ids
        for index, request_id in enumerate(message.ids):
            infer = Infer(
                request_id,
                message.variant,
                message.inputs,
                times[index if len(times) > 1 else 0],
                names[index] if names else "",
                message.outputs,
                None,
                message.priority,
            )
            self.accept(reply, infer, payload[index * size : (index + 1) * size])

    def run_now(self) -> None:
        """Streams begin when they are accepted."""

    def retire(self) -> None:
        """Refuse new streams; open ones go on."""
        self.loading.retire()

    def unload(self) -> None:
        """Release the model."""
        runtime = self.loading.take_out()
        if runtime is not None:
            self._threads.submit(runtime.unload)

    def close(self) -> None:
        """End every stream and release the model."""
        for sink in list(self._open.values()):
            sink.cancel()
        self.unload()
        self._threads.shutdown(wait=False)

    def _submit(self, runtime: StreamRuntime, job: Job, *, cold: bool) -> None:
        sink = StreamSink(job, self._clock, self._ended, cold=cold)
        job.flow = sink
        self._open[id(job)] = sink
        try:
            sink.cancel_runtime = runtime.submit(assemble([job]), sink)
        except BaseException as error:  # a runtime may raise anything, exits and panics too
            sink.fail(failure(error))

    def _ended(self, job: Job) -> None:
        self._open.pop(id(job), None)
        self.last_used_ns = self._clock.monotonic_ns()
