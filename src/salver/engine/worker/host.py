"""One loaded version: its queue, its batches, its answers."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from salver.core.clock import Clock
from salver.core.errors import SalverError
from salver.core.settings import EngineSettings
from salver.core.timing import Timing
from salver.engine.worker.answers import send_answer
from salver.engine.worker.groups import by_reply, told_apart
from salver.engine.worker.inline import Inline
from salver.engine.worker.job import Job, Reply, ids_of, many_jobs, one_job, rows_of
from salver.engine.worker.loading import Loading
from salver.engine.worker.padding import Padder
from salver.engine.worker.pauses import Pauses
from salver.engine.worker.queueing import Queueing
from salver.engine.worker.readying import Readier
from salver.engine.worker.refusals import late, refusal
from salver.engine.worker.run import Failure, Outcome, Runner, execute
from salver.engine.worker.seats import Seat, Seats
from salver.engine.worker.turn import Turn
from salver.engine.worker.watchdog import Watchdog
from salver.observe.meter import Meter
from salver.runtimes.base import BatchRuntime
from salver.runtimes.stepped import SteppedRuntime
from salver.wire.framing import Buffer
from salver.wire.messages import Infer, InferMany, Load

_S_NS = 1_000_000_000


class BatchHost:
    """Queue and batcher of one version behind a ``BatchRuntime``.

    ``load_runtime`` verifies and loads, in a thread. With a ``turn`` it loads and runs only while
    it holds it. ``when_out`` is called when requests wait for a model that is not in memory;
    without it the host loads it itself. States: lazy, loading, ready, failed, draining; those of
    managed versions are in ``Loading``. All methods are called on the event loop's thread.
    """

    def __init__(
        self,
        loading: Loading[BatchRuntime],
        settings: EngineSettings,
        clock: Clock,
        meter: Meter,
        turn: Turn | None = None,
        slots: tuple[int, ...] = (0,),
    ) -> None:
        self.loading = loading
        self.last_used_ns = clock.monotonic_ns()
        self._settings = settings
        self._clock = clock
        self._meter = meter
        self._turn = turn
        self._holding = False
        self._queueing = Queueing(settings, clock)
        self._queue = self._queueing.queue
        self._readier: Readier | None = None
        self._running: list[Job] = []
        self._aside = 0
        self._announcing = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._at_read_end = False
        self._came_ns = 0
        self._pauses = Pauses()
        self.when_out: Callable[[], None] | None = None
        self._inline = Inline(settings)
        # Code may hang, and may want one thread for all its calls; in quarantine anything may.
        self._is_watched = loading.load.trust_code or turn is not None
        self._loop = asyncio.get_running_loop()
        self._threads = self._one_thread()
        self._labels = (loading.load.variant,)
        self.seats = Seats(slots, self._watch, alone=turn is not None)
        self.seats.fill(loading.runtime, self._threads)
        self.update(loading.load)
        loading.finished, loading.swapped = self._loaded, self._swapped

    @property
    def load(self) -> Load:
        """The version this is."""
        return self.loading.load

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits, runs or loads."""
        loads = self.loading.active or self.loading.renewing
        return not (self._waits or self.seats.running or loads)

    def update(self, load: Load) -> None:
        """Take over a changed policy of the same version."""
        self.loading.load = load
        self._policy = load.policy
        inputs = load.signature.inputs
        variable = bool(inputs) and all(spec.shape and spec.shape[0] == -1 for spec in inputs)
        # In quarantine each request runs alone, so that none dies of another a second time.
        self._batches = variable and load.policy.max_batch_size > 1 and self._turn is None
        self._apply()

    def _apply(self) -> None:
        """Queue by the policy, and by length where the loaded model has steps that tell it."""
        runtime, rest = self.loading.runtime, None
        wanted = self._batches and self._settings.lanes and self._settings.tokenize_ahead
        if wanted and isinstance(runtime, SteppedRuntime):
            rest = runtime.rest
        if rest is not None and self._readier is None:
            self._readier = Readier(self._untold, self._readied)
        if self._readier is not None:
            self._readier.apply(rest)
        self._queueing.apply(self.load, rest)

    def accept(self, reply: Reply, infer: Infer, payload: Buffer) -> Job:
        """Make a job of a request and queue it, or refuse it at once."""
        job = one_job(reply, infer, payload, self._clock.monotonic_ns(), batches=self._batches)
        if self._queueing.measures:
            self._queueing.measure([job], infer.priority)
        self._take([job])
        return job

    def accept_many(self, reply: Reply, message: InferMany, payload: Buffer) -> None:
        """Do so with each request of a cohort; raises ``WireError`` for one that is broken."""
        now_ns = self._clock.monotonic_ns()
        jobs = many_jobs(reply, message, payload, now_ns, batches=self._batches)
        if self._queueing.measures:
            self._queueing.measure(jobs, message.priority)
        self._take(jobs)

    def _take(self, jobs: list[Job]) -> None:
        readier = self._readier
        if readier is None:
            self._enqueue(jobs)
            return
        for job in jobs:
            if not readier.takes(job):
                self._enqueue([job])
                continue
            if self._queue.requests + readier.requests >= self._policy.max_queue:
                self._purge(job.arrival_ns)
            refused = refusal(self.loading, self._queue.requests + readier.requests)
            if refused is None:
                job.reply.begin(job)
                readier.add(job)
            else:
                job.reply.fail(job, refused)

    def _untold(self, jobs: list[Job]) -> list[Job]:
        """Tell gateways of requests whose steps begin beside a running batch."""
        untold: list[Job] = []
        for group in by_reply(jobs):
            reply = group[0].reply
            running = [job for job in self._running if job.reply is reply]
            if not reply.announce(self.seats.slots[0], ids_of([*running, *group])):
                untold += group
        return untold

    def _readied(self, jobs: list[Job]) -> None:
        self._queueing.measure(jobs, None)
        for job in jobs:
            self._queue.append(job)
        if not (self._scheduled or self.seats.is_full or self.loading.active):
            self._schedule()
        elif self._timer is not None and self._queue.requests >= self._policy.max_batch_size:
            self._timer.cancel()
            self._pump()

    def _enqueue(self, jobs: list[Job]) -> None:
        queue, loading, reply = self._queue, self.loading, jobs[0].reply
        count = len(jobs[0].ids) if len(jobs) == 1 else sum([job.count for job in jobs])
        if loading.is_open and queue.requests + count <= self._policy.max_queue:
            for job in jobs:
                reply.begin(job)
                queue.append(job)
        else:
            self._enqueue_what_fits(jobs, count)
        if queue.requests and not (self._scheduled or self.seats.is_full or loading.active):
            if self._policy.max_queue_delay_ms <= 0 and reply.is_reading():
                self._scheduled = self._at_read_end = True
            else:
                self._schedule()
        elif self._timer is not None and queue.requests >= self._policy.max_batch_size:
            self._timer.cancel()
            self._pump()

    def _enqueue_what_fits(self, jobs: list[Job], count: int) -> None:
        queue, loading, reply = self._queue, self.loading, jobs[0].reply
        max_queue = self._policy.max_queue
        if loading.managed and loading.runtime is None:
            self._meter.add("salver_model_misses_total", self._labels, count)
        if queue.requests + count > max_queue:
            self._purge(jobs[0].arrival_ns)
        for job in jobs:
            refused = refusal(loading, queue.requests)
            if refused is not None:
                reply.fail(job, refused)
                continue
            room = max_queue - queue.requests
            fitting = job if job.count <= room else job.part(0, room)
            reply.begin(fitting)
            queue.append(fitting)
            if fitting is not job:
                full = refusal(loading, max_queue)
                assert full is not None
                reply.fail(job.part(room, job.count), full)

    def run_now(self) -> None:
        """Begin with what waits for the end of the reading."""
        if self._at_read_end:
            self._pump()

    def retire(self) -> None:
        """Refuse new work; what was accepted is finished."""
        self.loading.retire()

    def is_wanted(self) -> bool:
        """Tell whether somebody waits; those who have left are let go of."""
        if self._queue:
            self._purge(self._clock.monotonic_ns())
        return self._waits

    @property
    def _waits(self) -> bool:
        readier = self._readier
        return bool(self._queue or self._aside or (readier is not None and readier.requests))

    def refuse_waiting(self, error: SalverError) -> int:
        """End all that waits with an error; returns how many requests that were."""
        count = self._queue.requests
        for job in self._queue.clear():
            job.reply.fail(job, error)
        return count

    def give_up(self) -> BatchRuntime | None:
        """Give the loaded model away; the next request asks for it again."""
        self.seats.fill(None, self._threads)
        runtime = self.loading.take_out()
        self._apply()
        return runtime

    def unload(self) -> None:
        """Release the model; lazy hosts can load it again."""
        runtime = self.give_up()
        if runtime is not None:
            self._threads.submit(runtime.unload)

    def close(self) -> None:
        """Release the model and the thread."""
        self.unload()
        if self._readier is not None:
            self._readier.close()
        self._threads.shutdown(wait=False)

    def begin_load(self) -> None:
        """Load in this version's thread."""
        self.loading.begin(self._threads)

    def renew(self) -> None:
        """Load as ``load`` says by now, beside what serves; nothing to do if it was tried so."""
        loading = self.loading
        is_tried = loading.tried in (None, loading.load.execution)
        if is_tried or loading.active or loading.renewing or loading.load.lazy:
            return
        if loading.runtime is not None:
            loading.renew(self._one_thread())
        elif loading.state == "failed":
            loading.retry()
            if not loading.managed:
                self.begin_load()

    def _loaded(self) -> None:
        self._release()
        self.seats.fill(self.loading.runtime, self._threads)
        self._apply()
        if self.loading.error is not None:
            self.refuse_waiting(self.loading.error)
            if self.loading.may_be_mended:
                self._later(self._load_again)
            elif self.load.lazy:
                self.loading.rearm()
            elif self.loading.managed and self.when_out is None:
                self._later(self.loading.rearm)
            return
        self._pauses.end()
        self._came_ns = self._clock.monotonic_ns()
        if self._queue:
            self._schedule()
        self.renew()

    def _later(self, act: Callable[[], None]) -> None:
        self._loop.call_later(self._pauses.take(), act)

    def _load_again(self) -> None:
        if self.loading.state == "failed" and not self.loading.active:
            self.loading.retry()
            (self.when_out or self.begin_load)()

    def _swapped(self, before: BatchRuntime | None, threads: ThreadPoolExecutor) -> None:
        """Run in what was loaded beside ``before``, which goes when its last batch is done."""
        runtime = self.loading.runtime
        if runtime is not None and runtime is not before:
            threads, self._threads = self._threads, threads
            self.seats.fill(runtime, self._threads)
            self._apply()
        if before is not None:
            threads.submit(before.unload)
        threads.shutdown(wait=False)
        if self._queue.requests and not self._scheduled:
            self._schedule()
        self.renew()

    def _watch(self) -> Watchdog | None:
        if not self._is_watched:
            return None
        begun = None if self._turn is None else self._turn.begun
        return Watchdog(self._clock, self._settings.stuck_s, begun=begun)

    def _one_thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix=f"run-{self.load.variant}")

    def _schedule(self) -> None:
        self._scheduled = True
        policy = self._policy
        wait_ns = 0
        if policy.max_queue_delay_ms > 0 and 0 < self._queue.requests < policy.max_batch_size:
            wait_ns = self._queueing.wait_ns()
        if wait_ns > 0:
            self._timer = self._loop.call_later(wait_ns / _S_NS, self._pump)
        else:
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Run one batch of what waits, or load what it waits for, then come back for the rest."""
        self._scheduled = self._at_read_end = False
        self._timer = None
        turn = self._turn
        seats, is_held = self.seats, self._announcing or self.loading.active
        if seats.is_full or is_held or not self._queue.requests:
            if turn is not None:
                turn.offer()
            return
        if turn is not None:
            self._holding = turn.take(self._schedule)
            if not self._holding:
                self._scheduled = True
                return
        runtime = self.loading.runtime
        if runtime is None:
            self.loading.wanted_ns = self.loading.wanted_ns or self._clock.monotonic_ns()
            (self.when_out or self.begin_load)()
            return
        seat = seats.next()
        jobs = self._announced(self._next_jobs(), seat.slot)
        run, padder = self._way(seat, jobs)
        if jobs and (seats.are_many or self._is_watched or not self._inline.allows(jobs)):
            self._run_in(seat, jobs, run, padder)
            return
        if jobs:
            self._respond(jobs, execute(run, jobs, self._clock, padder))
        self._next()

    def _run_in(self, seat: Seat, jobs: list[Job], run: Runner, padder: Padder | None) -> None:
        """Run a batch in its thread, and the next one beside it where there is another seat."""
        seats, watchdog = self.seats, seat.watchdog
        seats.take()
        self._running = jobs
        if watchdog is not None:
            watchdog.begin(jobs, self._hurried)
        future = seat.threads.submit(execute, run, jobs, self._clock, padder)
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._ran, seat, jobs, done)
        )
        if self._queue.requests and not (seats.is_full or self._scheduled):
            self._schedule()

    def _way(self, seat: Seat, jobs: list[Job]) -> tuple[Runner, Padder | None]:
        """Return what answers a batch, and how its rows are filled up."""
        runtime = seat.runtime
        if jobs and jobs[0].ready and isinstance(runtime, SteppedRuntime):
            rest = runtime.rest
            assert rest is not None
            return rest, Padder(rest.sequences, rest.signature)
        return runtime, self._queueing.padder

    def _release(self) -> None:
        if self._holding and self._turn is not None:
            self._holding = False
            self._turn.release()

    def _next(self) -> None:
        self._release()
        if self._queue.requests and not self._scheduled:
            self._schedule()

    def _next_jobs(self) -> list[Job]:
        """Take the next batch without those that nobody waits for."""
        now_ns = self.last_used_ns = self._clock.monotonic_ns()
        return self._wanted(self._queue.take(self._policy.max_batch_size), now_ns)

    def _purge(self, now_ns: int) -> None:
        """Make room in a full queue by dropping what would be dropped anyway."""
        self._queue.put_back(self._wanted(self._queue.clear(), now_ns))

    def _wanted(self, jobs: list[Job], now_ns: int) -> list[Job]:
        """Return the jobs that somebody waits for, and let go of the others."""
        for job in jobs:
            if job.gone or job.cancelled or job.deadline_ns <= now_ns:
                break
        else:
            return jobs
        return [
            job
            for job in told_apart(jobs, now_ns)
            if not (job.cancelled or job.deadline_ns <= now_ns) or self._drop(job)
        ]

    def _drop(self, job: Job) -> bool:
        """Let go of work that nobody waits for; always False."""
        reason = "cancelled" if job.cancelled else "deadline"
        self._meter.add("salver_requests_dropped_total", (self.load.variant, reason), job.count)
        if job.cancelled:
            job.reply.forget(job)
        else:
            job.reply.fail(job, late())
        return False

    def _announced(self, jobs: list[Job], slot: int) -> list[Job]:
        """Tell the callers' gateways before the run, since it may be the process's last.

        Returns the jobs whose gateway has been told; the others wait until theirs reads again.
        """
        told: list[Job] = []
        for group in by_reply(jobs):
            reply = group[0].reply
            if reply.announce(slot, self._ids_at_risk(reply, group)):
                told += group
            else:
                self._put_aside(reply, group)
        return told

    def _ids_at_risk(self, reply: Reply, group: list[Job]) -> tuple[int, ...]:
        if self._readier is None or not self._readier.busy:
            return ids_of(group)
        return ids_of([*group, *(job for job in self._readier.busy if job.reply is reply)])

    def _put_aside(self, reply: Reply, group: list[Job]) -> None:
        # An announcement that is on its way must be followed by its run, not by another one.
        on_its_way = not reply.is_blocked
        self._aside += len(group)
        self._announcing += on_its_way

        def back() -> None:
            self._aside -= len(group)
            self._announcing -= on_its_way
            self._queue.put_back(group)
            if not self._scheduled and not self.seats.is_full:
                self._schedule()

        reply.when_unblocked(back)

    def _hurried(self) -> bool:
        """Tell whether the one request in quarantine keeps others from their last chance."""
        return self._turn is not None and bool(self._queue)

    def _ran(self, seat: Seat, jobs: list[Job], done: "Future[Outcome]") -> None:
        self.seats.leave(seat)
        self._running = []
        if seat.watchdog is not None:
            seat.watchdog.end()
        try:
            self._respond(jobs, done.result())
        finally:
            self._next()

    def _respond(self, jobs: list[Job], outcome: Outcome) -> None:
        self._meter.add("salver_batches_total", self._labels)
        self._inline.took(jobs, outcome.run_ns)
        self._queueing.learn(jobs, outcome)
        timing = Timing(0, 0, outcome.run_ns, 0, rows_of(jobs) or 1, self._is_cold(jobs))
        last = jobs[0].reply
        for answer in outcome.answers:
            reply = answer.job.reply if isinstance(answer, Failure) else answer.jobs[0].reply
            if reply is not last:
                last.flush()
                last = reply
            if isinstance(answer, Failure):
                reply.fail(answer.job, answer.error)
            else:
                send_answer(answer, outcome.started_ns, timing)
        last.flush()

    def _is_cold(self, jobs: list[Job]) -> bool:
        """Tell whether some of these waited for the model to be loaded."""
        if not self._came_ns:
            return False
        cold = any(job.arrival_ns < self._came_ns for job in jobs)
        if not cold:
            self._came_ns = 0
        return cold
