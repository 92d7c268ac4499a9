"""Adaptive batching finds out what pays, on a simulated model with the speed of a measured one.

MiniLM int8 on one thread, texts a second: of 16 tokens 292 one by one, 511 by 8 and 533 by 32; of
128 tokens 57, 60 and 53.
"""

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from salver.core.clock import ManualClock
from salver.core.errors import ModelFailed
from salver.core.settings import EngineSettings
from salver.engine.worker.job import Job, one_job, rows_of
from salver.engine.worker.latency import LatencyTable
from salver.engine.worker.queueing import Queueing
from salver.engine.worker.run import Failure, Outcome
from salver.wire.messages import BatchPolicy, Infer, Load
from tests.engine.worker.sequences import SEQUENCES, SIGNATURE, Desk, headers_of

_BACKLOG = 64
_BATCHES = 1800
_WARM = 600
_ROWS = np.log2([1, 8, 32, 64])
_SHORT_MS = 1000 / np.array([292, 511, 533, 533])
_LONG_MS = 1000 / np.array([57, 60, 53, 50])

Cost = Callable[[int, int], float]


def minilm_ms(rows: int, length: int) -> float:
    """Return how long a batch takes, between the lengths that were measured on a line."""
    short, long = (float(np.interp(np.log2(rows), _ROWS, row)) for row in (_SHORT_MS, _LONG_MS))
    return rows * max(0.5, short + (long - short) * (length - 16) / 112)


def accelerator_ms(rows: int, length: int) -> float:
    """Return how long a batch takes where one row keeps almost nothing busy."""
    return 5.0 + rows * length * 0.0005


class Simulation:
    """A worker with a backlog; time passes while batches run only."""

    def __init__(self, policy: BatchPolicy, cost: Cost, lengths: Iterator[int]) -> None:
        self.clock = ManualClock()
        self.queueing = Queueing(EngineSettings(), self.clock)
        self.queueing.apply(Load("m:1", "", "test", (), "local", SIGNATURE, policy))
        self.policy = policy
        self.cost = cost
        self.lengths = lengths
        self.noise = random.Random(7)
        self.sizes: list[int] = []
        self.times_ms: list[float] = []
        self.answered = 0

    def submit(self) -> None:
        """Let one more request wait."""
        headers = headers_of([np.zeros((1, next(self.lengths)), "<i8")], ["ids"])
        infer = Infer(1, "m:1", headers, 3_600_000_000, "")
        now_ns = self.clock.monotonic_ns()
        job = one_job(Desk(joins=True), infer, b"", now_ns, batches=True)
        self.queueing.measure([job], 0)
        self.queueing.queue.append(job)

    def step(self) -> list[Job]:
        """Run the next batch."""
        queue = self.queueing.queue
        jobs = queue.take(self.policy.max_batch_size)
        took_ms = self.cost(rows_of(jobs), max(job.length for job in jobs))
        took_ms *= self.noise.uniform(0.95, 1.15)
        self.clock.advance(took_ms / 1000)
        self.queueing.learn(jobs, Outcome([], 0, round(took_ms * 1e6)))
        self.sizes.append(len(jobs))
        self.times_ms.append(took_ms)
        return jobs

    def saturate(self) -> float:
        """Keep a backlog; returns the requests answered each second after a while."""
        for number in range(_BATCHES):
            while self.queueing.queue.requests < _BACKLOG:
                self.submit()
            jobs = self.step()
            if number >= _WARM:
                self.answered += len(jobs)
        return self.answered / sum(self.times_ms[_WARM:]) * 1000

    @property
    def usual_size(self) -> float:
        """The median size of the batches after a while."""
        return float(np.median(self.sizes[_WARM:]))


def always(length: int) -> Iterator[int]:
    """Yield texts of one length."""
    while True:
        yield length


def mixed() -> Iterator[int]:
    """Yield lengths as real sentences have them: 4 to 256 tokens, 23 in the middle."""
    rng = random.Random(3)
    while True:
        yield min(256, max(4, round(rng.lognormvariate(3.13, 0.8))))


def policy(batching: str = "adaptive", size: int = 64, **more: float) -> BatchPolicy:
    """Return a policy for texts."""
    return BatchPolicy(
        size,
        batching=batching,
        sequences=SEQUENCES,
        objective_ms=more.get("objective_ms", 0.0),
        max_padding=more.get("max_padding", 0.1),
    )


def test_short_texts_run_together() -> None:
    """For 16 tokens it comes to batches that answer at least 1.6 times as many as one by one."""
    alone = Simulation(policy("fixed", 1), minilm_ms, always(16)).saturate()
    adaptive = Simulation(policy(), minilm_ms, always(16))
    assert adaptive.saturate() > 1.6 * alone
    assert adaptive.usual_size >= 8


def test_long_texts_run_one_by_one() -> None:
    """For 128 tokens, where batches give nothing, most run alone and none waits for many others."""
    alone = Simulation(policy("fixed", 1), minilm_ms, always(128)).saturate()
    adaptive = Simulation(policy(), minilm_ms, always(128))
    assert adaptive.saturate() > 0.97 * alone
    assert adaptive.usual_size <= 2
    assert np.mean(adaptive.sizes[_WARM:]) < 4


def test_mixed_texts_gain_where_they_can() -> None:
    """Of real lengths it answers more than one by one, and more than batches as large as may be."""
    alone = Simulation(policy("fixed", 1), minilm_ms, mixed()).saturate()
    largest = Simulation(policy("fixed", max_padding=0.99), minilm_ms, mixed()).saturate()
    adaptive = Simulation(policy(), minilm_ms, mixed()).saturate()
    assert adaptive > 1.12 * alone
    assert adaptive > 1.8 * largest


def test_an_accelerator_gets_large_batches() -> None:
    """Where a batch costs little more than a row, long texts run together as well."""
    adaptive = Simulation(policy(), accelerator_ms, always(128))
    adaptive.saturate()
    assert adaptive.usual_size >= 32


def test_no_batch_is_larger_than_the_objective_allows() -> None:
    """With an objective of 20 ms, batches of short texts stay under it but for noise and trying."""
    adaptive = Simulation(policy(objective_ms=20.0), minilm_ms, always(16))
    for number in range(_BATCHES):
        # Two at a time wait, then a burst: the batch is limited by time, not by what is there.
        for _ in range(16 if number % 4 == 0 else 1):
            adaptive.submit()
        while adaptive.queueing.queue:
            adaptive.step()
    late = [ms for ms in adaptive.times_ms[_WARM:] if ms > 20 * 1.3]
    assert len(late) < 0.02 * len(adaptive.times_ms[_WARM:])
    assert max(adaptive.sizes[_WARM:]) > 2


def test_what_changes_is_learnt_anew() -> None:
    """A model that becomes worth batching, as when a neighbour leaves, is batched again."""
    simulation = Simulation(policy(), minilm_ms, always(128))
    simulation.saturate()
    assert simulation.usual_size <= 2
    simulation.cost = accelerator_ms
    simulation.sizes.clear()
    simulation.saturate()
    assert simulation.usual_size >= 32


def test_one_slow_run_does_not_mislead() -> None:
    """A run that took a hundred times as long moves the expectation by no more than a twentieth."""
    table = LatencyTable()
    for _ in range(20):
        table.learn(8, 16, 1_000_000)
    table.learn(8, 16, 100_000_000)
    assert table.expect_ns(8, 16) == pytest.approx(1_050_000)


def test_failed_batches_teach_nothing() -> None:
    """How long it took to find out that a request fails says nothing of others."""
    simulation = Simulation(policy(), minilm_ms, always(16))
    simulation.submit()
    jobs = simulation.queueing.queue.take(1)
    failed = Outcome([Failure(jobs[0], ModelFailed("it failed"))], 0, 10**12)
    simulation.queueing.learn(jobs, failed)
    simulation.queueing.learn(jobs, Outcome([], 0, 10**6))
    for _ in range(2):
        simulation.submit()
    table = simulation.queueing.table
    assert table.expect_ns(1, 16) == pytest.approx(10**6)
