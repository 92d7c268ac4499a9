"""Runs a fixed rate or a ramp against a target, and makes the report."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from salver.bench.carrier import Carrier
from salver.bench.channels import Channels
from salver.bench.figures import Arrivals, Capacity, Format, Report, Requests, Settings, Step
from salver.bench.generator import OpenLoop, Run
from salver.bench.heads import Heads
from salver.bench.pool import Pool, allow_files
from salver.bench.ramp import RampSettings, Search
from salver.bench.schedule import MAX_REQUESTS, arrival_times
from salver.bench.summary import Objective, late_limit_s, summarise
from salver.bench.target import Target
from salver.bench.workload import Workload, wire
from salver.core.clock import Clock, SystemClock
from salver.core.garbage import settle

_OPENED_BEFORE = 16


@dataclass(frozen=True, slots=True)
class Job:
    """What to do to whom, and how; ``streams`` is how many calls a gRPC connection carries."""

    endpoint: str
    url: str
    target: Target
    workload: Workload
    objective: Objective
    api_key: str = ""
    rate_per_s: float = 100.0
    duration_s: float = 10.0
    warmup_s: float = 1.0
    arrivals: Arrivals = Arrivals.POISSON
    seed: int = 0
    connections: int = 1024
    streams: int = 64
    timeout_s: float = 10.0
    precise: bool = True
    ramp: RampSettings | None = None


class Observer(Protocol):
    """Who watches a run; every call comes from the loop that also sends, so it must be quick."""

    def begins(self, rate_per_s: float, requests: int) -> None:
        """Tell that a step begins."""
        ...

    def goes_on(self, due: int, ended: int) -> None:
        """Tell how many requests were due and have ended."""
        ...

    def ends(self, step: Step) -> None:
        """Give a step's figures."""
        ...


@dataclass(slots=True)
class Session:
    """One job being done; ``interrupt`` may be called from a signal handler of its loop."""

    job: Job
    observer: Observer
    clock: Clock = field(default_factory=SystemClock)
    steps: list[Step] = field(default_factory=list)
    interrupted: bool = False
    capacity: Capacity | None = None
    _loop: OpenLoop | None = None

    async def run(self) -> Report:
        """Do the job; raises ``NotReady`` when nothing listens there."""
        job = self.job
        allow_files(job.connections)
        carrier = _carrier(job, self.clock)
        requests = wire(job.workload, job.target, job.endpoint, job.api_key)
        try:
            await carrier.open(_OPENED_BEFORE)
            self._loop = OpenLoop(
                carrier,
                self.clock,
                precise=job.precise,
                late_limit_s=late_limit_s(job.objective),
            )
            if self.interrupted:
                self._loop.stop()
            settle()
            if job.ramp is None:
                await self._step(requests, job.rate_per_s)
            else:
                await self._search(requests, job.ramp)
        finally:
            await carrier.close()
        return self.report()

    def interrupt(self) -> None:
        """End soon, with what has been measured so far."""
        self.interrupted = True
        if self._loop is not None:
            self._loop.stop()

    def report(self) -> Report:
        """Return what is known now."""
        job = self.job
        objective, workload = job.objective, job.workload
        return Report(
            "rate" if job.ramp is None else "ramp",
            job.endpoint,
            job.url,
            described(workload),
            Settings(
                job.arrivals.value,
                job.seed,
                1e3 * objective.slo_s,
                100 * objective.quantile,
                100 * objective.goodput,
                job.warmup_s,
                job.connections,
                job.timeout_s,
                "kernel" if job.precise else "loop",
                job.streams if workload.format is Format.GRPC else 1,
            ),
            list(self.steps),
            self.capacity,
            interrupted=self.interrupted,
        )

    async def _search(self, requests: Sequence[bytes], settings: RampSettings) -> None:
        # A rate of which too many times would have to be kept must not cost what was measured.
        most_per_s = max(1, MAX_REQUESTS // (self.job.warmup_s + self.job.duration_s))
        search = Search(replace(settings, max_rate_per_s=min(settings.max_rate_per_s, most_per_s)))
        while not self.interrupted and (rate_per_s := search.next_rate()) is not None:
            step = await self._step(requests, rate_per_s)
            if self.interrupted or step is None:
                break
            search.tell(met=step.met, generator_limited=step.generator.bottleneck)
        if self.interrupted:
            search.interrupt()
        self.capacity = search.capacity

    async def _step(self, requests: Sequence[bytes], rate_per_s: float) -> Step | None:
        """Hold a rate; None when it was interrupted before anything was measured."""
        job = self.job
        assert self._loop is not None
        seed = job.seed + len(self.steps)
        times = arrival_times(job.arrivals, rate_per_s, job.warmup_s + job.duration_s, seed)
        first = int((times < round(job.warmup_s * 1e9)).sum())
        self.observer.begins(rate_per_s, len(times))
        run = await self._loop.run(times, requests, first, seed, self.observer.goes_on)
        measured_s = self._measured_s(run)
        if run.count <= run.first or measured_s <= 0:
            return None
        step = summarise(run, rate_per_s, measured_s, job.objective)
        self.steps.append(step)
        self.observer.ends(step)
        return step

    def _measured_s(self, run: Run) -> float:
        if not self.interrupted or run.count <= run.first:
            return self.job.duration_s
        due_ns = run.record.due_ns
        return (due_ns[run.count - 1] - due_ns[run.first]) / 1e9


def _carrier(job: Job, clock: Clock) -> Carrier:
    if job.workload.format is not Format.GRPC:
        return Pool(job.target, job.connections, job.timeout_s, clock)
    heads = Heads(job.target, job.api_key)
    heads.check()
    return Channels(
        job.target,
        heads,
        clock,
        limit=job.connections,
        streams=job.streams,
        timeout_s=job.timeout_s,
    )


def described(workload: Workload) -> Requests:
    """Return what a report says of what was sent."""
    return Requests(
        workload.source,
        workload.format.value,
        len(workload.bodies),
        workload.mean_bytes,
    )
