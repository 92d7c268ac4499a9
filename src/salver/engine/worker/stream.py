"""Requests that answer in chunks, with credit from the receiver."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from salver.core.clock import Clock
from salver.core.errors import (
    Draining,
    LoadFailed,
    ModelFailed,
    NotReady,
    Overloaded,
    SalverError,
)
from salver.core.timing import Timing
from salver.engine.worker.batch import assemble, whole
from salver.engine.worker.job import Job, Reply
from salver.observe.meter import Meter
from salver.runtimes.base import Batch, StreamRuntime
from salver.wire.framing import Buffer
from salver.wire.messages import BatchStarted, Chunk, Infer, Load

_RETRY_AFTER_S = 1.0
_UNARY_CREDIT = 1_000_000
_MAX_CAUSE = 500

StreamLoader = Callable[[Load], StreamRuntime]


class StreamSink:
    """Carries chunks from the runtime's thread to the event loop; blocks without credit."""

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop, done: Callable[[], None]) -> None:
        self._job = job
        self._loop = loop
        self._done = done
        self._sequence = 0
        self._credit = threading.Semaphore(job.infer.credit or _UNARY_CREDIT)
        self._closed = threading.Event()

    def grant(self, chunks: int) -> None:
        """Let so many more chunks through."""
        self._credit.release(chunks)

    def close(self) -> None:
        """Nobody listens any more; a blocked runtime thread wakes up."""
        self._closed.set()
        self._credit.release()

    def chunk(self, outputs: Batch) -> bool:
        """Deliver one chunk; see ``runtimes.base.Sink``."""
        self._credit.acquire()
        if self._closed.is_set():
            return False
        self._post(outputs, final=False)
        return True

    def finish(self) -> None:
        """Send the final, empty chunk."""
        if not self._closed.is_set():
            self._post({}, final=True)
        self._loop.call_soon_threadsafe(self._done)

    def fail(self, error: SalverError) -> None:
        """End the stream with an error."""
        if not self._closed.is_set():
            self._loop.call_soon_threadsafe(self._job.reply.fail, self._job, error)
        self._loop.call_soon_threadsafe(self._done)

    def _post(self, outputs: Batch, *, final: bool) -> None:
        headers, buffers = whole(outputs)
        timing = Timing() if final else None
        chunk = Chunk(self._job.id, self._sequence, final, headers, timing)
        self._sequence += 1
        self._loop.call_soon_threadsafe(self._deliver, chunk, buffers)

    def _deliver(self, chunk: Chunk, buffers: list[Buffer]) -> None:
        self._job.reply.send(chunk, buffers)
        if chunk.final:
            self._job.reply.forget(self._job)


class StreamHost:
    """One loaded version behind a ``StreamRuntime``; streams pass the batcher by."""

    def __init__(
        self,
        load: Load,
        load_runtime: StreamLoader,
        clock: Clock,
        meter: Meter,
        changed: Callable[[], None],
    ) -> None:
        self.load = load
        self.state = "loading"
        self.error: SalverError | None = None
        self.resident_bytes = 0
        self.last_used_ns = clock.monotonic_ns()
        self._load_runtime = load_runtime
        self._clock = clock
        self._meter = meter
        self._changed = changed
        self._runtime: StreamRuntime | None = None
        self._open: dict[int, tuple[StreamSink, Callable[[], None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"load-{load.variant}")

    @property
    def idle(self) -> bool:
        """Tell whether no stream is open and nothing loads."""
        return not self._open and self.state != "loading"

    def update(self, load: Load) -> None:
        """Take over a changed policy of the same version."""
        self.load = load

    def begin_load(self) -> None:
        """Load in a thread; ``changed`` is called when it succeeded or failed."""
        future = self._threads.submit(self._load_runtime, self.load)
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._loaded, done))

    def accept(self, reply: Reply, infer: Infer, payload: Buffer) -> Job:
        """Begin a stream, or refuse it at once."""
        job = Job(reply, infer, payload, self._clock.monotonic_ns(), batches=False)
        runtime = self._runtime
        refusal = self._refusal()
        if refusal is not None or runtime is None:
            reply.fail(job, refusal or NotReady(f"{self.load.variant} is not loaded"))
            return job
        sink = StreamSink(job, self._loop, lambda: self._ended(job))
        reply.begin(job)
        reply.send(BatchStarted((job.id,)))
        reply.flush()
        try:
            cancel = runtime.submit(assemble([job]), sink)
        except Exception as error:  # a runtime may raise anything
            failure = (
                error if isinstance(error, SalverError) else ModelFailed(str(error)[:_MAX_CAUSE])
            )
            reply.fail(job, failure)
            return job
        self._open[id(job)] = (sink, cancel)
        self.last_used_ns = self._clock.monotonic_ns()
        return job

    def grant(self, job: Job, chunks: int) -> None:
        """Pass on the receiver's credit."""
        entry = self._open.get(id(job))
        if entry is not None:
            entry[0].grant(chunks)

    def cancel(self, job: Job) -> None:
        """End a stream that nobody reads."""
        entry = self._open.get(id(job))
        if entry is not None:
            sink, cancel = entry
            sink.close()
            cancel()

    def retire(self) -> None:
        """Refuse new streams; open ones go on."""
        self.state = "draining"
        self._changed()

    def unload(self) -> None:
        """Release the model."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            self._threads.submit(runtime.unload)

    def close(self) -> None:
        """End every stream and release the model."""
        for sink, cancel in list(self._open.values()):
            sink.close()
            cancel()
        self.unload()
        self._threads.shutdown(wait=False)

    def _refusal(self) -> SalverError | None:
        if self.error is not None:
            return self.error
        if self.state == "draining":
            return Draining(f"{self.load.variant} is being unloaded", retry_after_s=_RETRY_AFTER_S)
        if self.state != "ready":
            return NotReady(f"{self.load.variant} is still loading", retry_after_s=_RETRY_AFTER_S)
        if len(self._open) >= self.load.policy.max_queue:
            return Overloaded("too many open streams", retry_after_s=_RETRY_AFTER_S)
        return None

    def _loaded(self, done: "Future[StreamRuntime]") -> None:
        try:
            self._runtime = done.result()
            self.state = "ready"
            self._meter.add("salver_model_loads_total", (self.load.variant,))
        except Exception as error:  # whatever a library raises on a damaged file
            known = isinstance(error, SalverError)
            self.error = error if known else LoadFailed(str(error)[:_MAX_CAUSE])  # type: ignore[assignment]
            self.state = "failed"
            labels = (self.load.variant, self.error.code if self.error else "")
            self._meter.add("salver_model_load_failures_total", labels)
        self._changed()

    def _ended(self, job: Job) -> None:
        self._open.pop(id(job), None)
