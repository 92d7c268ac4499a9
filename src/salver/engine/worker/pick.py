"""Which of the jobs that wait for one another's company are the next batch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from salver.core.clock import Clock
from salver.engine.worker.job import Job
from salver.engine.worker.latency import LatencyTable
from salver.wire.messages import BatchPolicy

ADAPTIVE = "adaptive"
_WORTH = 0.93
_MS_NS = 1_000_000

Picker = Callable[[Sequence[Job], int], "list[Pick]"]
"""Takes jobs of one key, the most urgent first, and the most rows; the first is in the batch."""


class Pick(NamedTuple):
    """So many of a job's requests, from its first on."""

    job: Job
    requests: int


class Limits(NamedTuple):
    """The most rows of a batch, the most tokens with filling (0: any), and the share of filling."""

    rows: int
    tokens: int = 0
    waste: float = 0.0

    def rows_of(self, length: int) -> int:
        """Return how many rows of a length may run together."""
        return min(self.rows, self.tokens // length) if self.tokens else self.rows


def fill(jobs: Sequence[Job], limits: Limits) -> list[Pick]:
    """Return the first job and those after it that fit with it, cut where they must be.

    At least one request is taken. Where lengths differ, those nearest to the first one's go first.
    """
    first = jobs[0]
    count = max(1, min(first.count, limits.rows_of(first.length) // first.rows))
    picks = [Pick(first, count)]
    rows, longest = count * first.rows, first.length
    filled = rows * longest
    for job in _nearest(jobs):
        if rows >= limits.rows_of(longest):
            break
        length = max(longest, job.length)
        count = min(job.count, (limits.rows_of(length) - rows) // job.rows)
        if count < 1:
            continue
        added = count * job.rows
        real = filled + added * job.length
        if real < (1 - limits.waste) * (rows + added) * length:
            continue
        picks.append(Pick(job, count))
        rows, longest, filled = rows + added, length, real
    return picks


def _nearest(jobs: Sequence[Job]) -> Sequence[Job]:
    rest, first = jobs[1:], jobs[0]
    if all(job.length == first.length for job in rest):
        return rest
    return sorted(rest, key=lambda job: (job.priority, abs(job.length - first.length)))


class FixedPicker:
    """As many as the limits allow."""

    def __init__(self, policy: BatchPolicy) -> None:
        self._tokens = policy.max_batch_tokens
        self._waste = policy.max_padding

    def __call__(self, jobs: Sequence[Job], max_rows: int) -> list[Pick]:
        """Fill a batch."""
        return fill(jobs, Limits(max_rows, self._tokens, self._waste))


class AdaptivePicker:
    """As many as are worth it.

    A batch is worth the time its requests would take alone, of those that it answers in time, for
    each second it takes. Of the batches within the limits that come near the best, the smallest is
    taken, since its answers are there sooner.
    """

    def __init__(self, policy: BatchPolicy, table: LatencyTable, clock: Clock) -> None:
        self._tokens = policy.max_batch_tokens
        self._waste = policy.max_padding
        self._objective_ns = policy.objective_ms * _MS_NS
        self._table = table
        self._clock = clock

    def __call__(self, jobs: Sequence[Job], max_rows: int) -> list[Pick]:
        """Weigh batches of doubling size."""
        now_ns = self._clock.monotonic_ns()
        options: list[list[Pick]] = []
        for rows in (*_doubling(max_rows), max_rows):
            option = fill(jobs, Limits(rows, self._tokens, self._waste))
            if not options or _rows(option) > _rows(options[-1]):
                options.append(option)
            elif rows > _rows(option) * 2:
                break
        if len(options) == 1:
            return options[0]
        gains = [self._gain(option, now_ns, is_bound=True) for option in options]
        if not any(gains):
            gains = [self._gain(option, now_ns, is_bound=False) for option in options]
        least = _WORTH * max(gains)
        return next(o for o, gain in zip(options, gains, strict=True) if gain >= least)

    def _gain(self, picks: list[Pick], now_ns: int, *, is_bound: bool) -> float:
        longest = max(pick.job.length for pick in picks)
        run_ns = self._table.expect_ns(_rows(picks), longest)
        alone_ns = sum(
            [
                count * self._table.expect_ns(job.rows, job.length)
                for job, count in picks
                if not is_bound or now_ns + run_ns <= self._limit_ns(job)
            ]
        )
        return alone_ns / run_ns

    def _limit_ns(self, job: Job) -> float:
        """Return when an answer comes too late to count."""
        if self._objective_ns:
            return min(job.deadline_ns, job.arrival_ns + self._objective_ns)
        return job.deadline_ns


def _doubling(limit: int) -> list[int]:
    return [1 << power for power in range(limit.bit_length()) if 1 << power < limit]


def _rows(picks: list[Pick]) -> int:
    return sum([pick.requests * pick.job.rows for pick in picks])
