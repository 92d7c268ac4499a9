"""One loaded version: its queue, its batches, its answers."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from salver.core.clock import Clock
from salver.core.errors import (
    DeadlineExceeded,
    Draining,
    LoadFailed,
    ModelFailed,
    NotReady,
    Overloaded,
    SalverError,
)
from salver.core.settings import EngineSettings
from salver.core.timing import Timing
from salver.engine.worker.batch import Answer, assemble, disassemble, take_batch, whole
from salver.engine.worker.job import Job, Reply
from salver.observe.logs import get_logger
from salver.observe.meter import Meter
from salver.runtimes.base import BatchRuntime
from salver.wire.framing import Buffer
from salver.wire.messages import BatchStarted, Chunk, Infer, Load

log = get_logger(__name__)

_RETRY_AFTER_S = 1.0
_SMOOTHING = 0.2
_MAX_CAUSE = 500

Loader = Callable[[Load], BatchRuntime]


class BatchHost:
    """Queue and batcher of one version behind a ``BatchRuntime``.

    ``load_runtime`` verifies and loads, in a thread. States: lazy, loading, ready, failed,
    draining. All methods are called on the event loop's thread.
    """

    def __init__(
        self,
        load: Load,
        load_runtime: Loader,
        settings: EngineSettings,
        clock: Clock,
        meter: Meter,
        changed: Callable[[], None],
    ) -> None:
        self.load = load
        self.state = "lazy" if load.lazy else "loading"
        self.error: SalverError | None = None
        self.resident_bytes = 0
        self.last_used_ns = clock.monotonic_ns()
        self._load_runtime = load_runtime
        self._settings = settings
        self._clock = clock
        self._meter = meter
        self._changed = changed
        self._queue: deque[Job] = deque()
        self._runtime: BatchRuntime | None = None
        self._scheduled = False
        self._busy = False
        self._cold = True
        self._mean_run_ns: float | None = None
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"run-{load.variant}")
        self._labels = (load.variant,)
        self._batches = self._variable_first_axis() and load.policy.max_batch_size > 1

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits, runs or loads."""
        return not self._queue and not self._busy and self.state != "loading"

    def update(self, load: Load) -> None:
        """Take over a changed policy of the same version."""
        self.load = load
        self._batches = self._variable_first_axis() and load.policy.max_batch_size > 1

    def begin_load(self) -> None:
        """Load in a thread; ``changed`` is called when it succeeded or failed."""
        self.state = "loading"
        self._changed()
        started_ns = self._clock.monotonic_ns()
        future = self._threads.submit(self._load_runtime, self.load)
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._loaded, done, started_ns)
        )

    def submit(self, job: Job) -> None:
        """Queue a job, or refuse it at once."""
        refusal = self._refusal()
        if refusal is not None:
            job.reply.fail(job, refusal)
            return
        job.reply.begin(job)
        self._queue.append(job)
        if self.state == "lazy":
            self.begin_load()
        elif not self._scheduled and not self._busy and self.state != "loading":
            self._schedule()

    def accept(self, reply: Reply, infer: Infer, payload: Buffer) -> Job:
        """Make a job of a request and queue it, or refuse it at once."""
        job = Job(reply, infer, payload, self._clock.monotonic_ns(), batches=self._batches)
        self.submit(job)
        return job

    def retire(self) -> None:
        """Refuse new work; what was accepted is finished."""
        self.state = "draining"
        self._changed()

    def unload(self) -> None:
        """Release the model; lazy hosts can load it again."""
        runtime, self._runtime = self._runtime, None
        self._cold = True
        if runtime is not None:
            self._threads.submit(runtime.unload)
        if self.load.lazy and self.state == "ready":
            self.state = "lazy"

    def close(self) -> None:
        """Release the model and the thread."""
        self.unload()
        self._threads.shutdown(wait=False)

    def _variable_first_axis(self) -> bool:
        inputs = self.load.signature.inputs
        return bool(inputs) and all(spec.shape and spec.shape[0] == -1 for spec in inputs)

    def _refusal(self) -> SalverError | None:
        variant = self.load.variant
        if self.state == "failed":
            return self.error
        if self.state == "draining":
            return Draining(f"{variant} is being unloaded here", retry_after_s=_RETRY_AFTER_S)
        if self.state == "loading" and not self.load.lazy:
            return NotReady(f"{variant} is still loading", retry_after_s=_RETRY_AFTER_S)
        if len(self._queue) >= self.load.policy.max_queue:
            return Overloaded(
                f"the queue of {variant} is full ({len(self._queue)} requests); try again later "
                "or add replicas",
                retry_after_s=_RETRY_AFTER_S,
            )
        return None

    def _loaded(self, done: "Future[BatchRuntime]", started_ns: int) -> None:
        try:
            self._runtime = done.result()
        except SalverError as error:
            self._load_failed(error)
            return
        except Exception as error:  # whatever a library raises on a damaged file
            self._load_failed(LoadFailed(f"{self.load.variant}: {error}"[:_MAX_CAUSE]))
            return
        seconds = (self._clock.monotonic_ns() - started_ns) / 1e9
        self._meter.add("salver_model_loads_total", self._labels)
        self._meter.histogram("salver_model_load_seconds", self._labels).observe(seconds)
        log.info("model_loaded", variant=self.load.variant, seconds=round(seconds, 4))
        if self.state == "loading":
            self.state = "ready"
        self._changed()
        if self._queue:
            self._schedule()

    def _load_failed(self, error: SalverError) -> None:
        self.state, self.error = "failed", error
        self._meter.add("salver_model_load_failures_total", (self.load.variant, error.code))
        log.error("model_load_failed", variant=self.load.variant, code=error.code, cause=str(error))
        while self._queue:
            job = self._queue.popleft()
            job.reply.fail(job, error)
        self._changed()

    def _schedule(self) -> None:
        self._scheduled = True
        delay_ms = self.load.policy.max_queue_delay_ms
        if delay_ms > 0 and len(self._queue) < self.load.policy.max_batch_size:
            self._loop.call_later(delay_ms / 1000, self._pump)
        else:
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Run one batch of what waits, then come back for the rest."""
        self._scheduled = False
        queue = self._queue
        if self._busy or not queue or self._runtime is None:
            return
        now_ns = self._clock.monotonic_ns()
        jobs = [
            job
            for job in take_batch(queue, self.load.policy.max_batch_size)
            if not (job.cancelled or job.deadline_ns <= now_ns) or self._drop(job)
        ]
        if jobs:
            self.last_used_ns = now_ns
            self._announce(jobs)
            if self._inline():
                self._respond(jobs, self._execute(jobs))
            else:
                self._busy = True
                future = self._threads.submit(self._execute, jobs)
                future.add_done_callback(
                    lambda done: self._loop.call_soon_threadsafe(self._ran, jobs, done)
                )
        if queue and not self._busy and not self._scheduled:
            self._schedule()

    def _drop(self, job: Job) -> bool:
        """Let go of work that nobody waits for; always False."""
        if job.cancelled:
            self._meter.add("salver_requests_dropped_total", (self.load.variant, "cancelled"))
            job.reply.forget(job)
        else:
            self._meter.add("salver_requests_dropped_total", (self.load.variant, "deadline"))
            job.reply.fail(job, DeadlineExceeded("the deadline passed while the request waited"))
        return False

    def _announce(self, jobs: list[Job]) -> None:
        """Tell the callers' gateways before the run, since it may be the process's last."""
        first = jobs[0].reply
        if all(job.reply is first for job in jobs):
            first.send(BatchStarted(tuple([job.id for job in jobs])))
            first.flush()
            return
        by_reply: dict[int, list[Job]] = {}
        for job in jobs:
            by_reply.setdefault(id(job.reply), []).append(job)
        for group in by_reply.values():
            group[0].reply.send(BatchStarted(tuple([job.id for job in group])))
            group[0].reply.flush()

    def _inline(self) -> bool:
        runner = self._settings.runner
        if runner != "auto":
            return runner == "inline"
        mean_ns = self._mean_run_ns
        return mean_ns is not None and mean_ns <= self._settings.inline_limit_us * 1000

    def _ran(self, jobs: list[Job], done: "Future[_Outcome]") -> None:
        self._busy = False
        self._respond(jobs, done.result())
        if self._queue and not self._scheduled:
            self._schedule()

    def _execute(self, jobs: list[Job]) -> "_Outcome":
        """Run the jobs as one batch; if that fails, each alone, so that one hurts only itself."""
        started_ns = self._clock.monotonic_ns()
        try:
            answers: list[Answer | SalverError] = list(self._run(jobs))
        except Exception as error:  # a runtime may raise anything
            if len(jobs) == 1:
                answers = [_as_failure(error)]
            else:
                answers = [self._run_alone(job) for job in jobs]
        return _Outcome(answers, started_ns, self._clock.monotonic_ns() - started_ns)

    def _run(self, jobs: list[Job]) -> list[Answer]:
        runtime = self._runtime
        if runtime is None:
            raise NotReady(f"{self.load.variant} was unloaded", retry_after_s=_RETRY_AFTER_S)
        outputs = runtime.run(assemble(jobs), jobs[0].infer.outputs)
        return disassemble(outputs, jobs) if len(jobs) > 1 else [whole(outputs)]

    def _run_alone(self, job: Job) -> Answer | SalverError:
        try:
            return self._run([job])[0]
        except Exception as error:  # a runtime may raise anything
            return _as_failure(error)

    def _respond(self, jobs: list[Job], outcome: "_Outcome") -> None:
        self._meter.add("salver_batches_total", self._labels)
        mean_ns = self._mean_run_ns
        self._mean_run_ns = (
            float(outcome.run_ns)
            if mean_ns is None
            else mean_ns + _SMOOTHING * (outcome.run_ns - mean_ns)
        )
        rows = sum([job.rows for job in jobs]) or 1
        cold, self._cold = self._cold and self.load.lazy, False
        for job, answer in zip(jobs, outcome.answers, strict=True):
            if isinstance(answer, SalverError):
                job.reply.fail(job, answer)
                continue
            headers, buffers = answer
            timing = Timing(outcome.started_ns - job.arrival_ns, 0, outcome.run_ns, 0, rows, cold)
            job.reply.send(Chunk(job.id, 0, True, headers, timing), buffers)
            job.reply.forget(job)


class _Outcome:
    __slots__ = ("answers", "run_ns", "started_ns")

    def __init__(self, answers: list[Answer | SalverError], started_ns: int, run_ns: int) -> None:
        self.answers = answers
        self.started_ns = started_ns
        self.run_ns = run_ns


def _as_failure(error: Exception) -> SalverError:
    if isinstance(error, SalverError):
        return error
    return ModelFailed(f"the model failed: {type(error).__name__}: {error}"[:_MAX_CAUSE])
