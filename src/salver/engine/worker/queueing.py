"""How requests of one version wait and are put together, by its policy."""

from salver.core.clock import Clock
from salver.core.settings import EngineSettings
from salver.engine.worker.form import ALONE
from salver.engine.worker.job import Job, rows_of
from salver.engine.worker.lanes import LaneQueue
from salver.engine.worker.latency import LatencyTable
from salver.engine.worker.padding import Padder
from salver.engine.worker.pick import ADAPTIVE, AdaptivePicker, FixedPicker
from salver.engine.worker.queue import JobQueue
from salver.engine.worker.run import Failure, Outcome
from salver.engine.worker.tokens import Tokens
from salver.runtimes.stepped import Rest
from salver.wire.messages import BatchPolicy, Load

USUAL_PRIORITY = 10
"""What a request counts as that names no priority; 1 is the most urgent."""
_MS_NS = 1_000_000


class Queueing:
    """The queue of one version, and what its policy asks to know of jobs.

    ``measures`` tells whether jobs are to be given to ``measure`` before they are queued.
    ``padder`` is None where rows of unlike lengths never run together.
    """

    def __init__(self, settings: EngineSettings, clock: Clock) -> None:
        self._clock = clock
        self._policy = BatchPolicy()
        self._lanes = LaneQueue()
        self._plain = JobQueue()
        self.queue: LaneQueue | JobQueue = self._lanes if settings.lanes else self._plain
        self._has_lanes = settings.lanes
        self.table = LatencyTable()
        self._tokens: Tokens | None = None
        self.padder: Padder | None = None
        self.measures = self._adapts = False

    def apply(self, load: Load, rest: Rest | None = None) -> None:
        """Queue by the load's policy from now on; a ``rest`` tells what steps make of requests."""
        policy, signature = load.policy, load.signature
        self._policy = policy
        sequences = policy.sequences
        self.padder = None if sequences is None else Padder(sequences, signature)
        if rest is not None:
            sequences, signature = rest.sequences, rest.signature
        adapts = self._adapts = self._has_lanes and policy.batching == ADAPTIVE
        self._plain.max_tokens = policy.max_batch_tokens
        self._lanes.pick = None
        if adapts:
            self._lanes.pick = AdaptivePicker(policy, self.table, self._clock)
        elif policy.max_batch_tokens or sequences is not None:
            self._lanes.pick = FixedPicker(policy)
        self._tokens = None
        if adapts or policy.max_batch_tokens or sequences is not None:
            self._tokens = Tokens(signature, sequences if self._has_lanes else None)
        self.measures = self._tokens is not None or policy.priorities

    def measure(self, jobs: list[Job], priority: int | None) -> None:
        """Tell jobs how urgent they are, how long their rows, and which others they may join.

        With None for the priority they know how urgent they are.
        """
        tokens = self._tokens
        if self._policy.priorities and priority is not None:
            rank = priority or USUAL_PRIORITY
            for job in jobs:
                job.priority = rank
        if tokens is not None:
            for job in jobs:
                measure = tokens.of(job.form)
                job.length = measure.length
                if job.key is not ALONE:
                    job.key = measure.key

    def wait_ns(self) -> int:
        """Return how much longer the next batch may wait for company.

        That is counted from the arrival of the request it is built around, and at most half of
        the time that one has.
        """
        oldest = self.queue.oldest
        delay_ns = round(self._policy.max_queue_delay_ms * _MS_NS)
        delay_ns = min(delay_ns, (oldest.deadline_ns - oldest.arrival_ns) // 2)
        return oldest.arrival_ns + delay_ns - self._clock.monotonic_ns()

    def learn(self, jobs: list[Job], outcome: Outcome) -> None:
        """Take note of how long a batch ran, unless something in it failed."""
        if self._adapts and not any(isinstance(one, Failure) for one in outcome.answers):
            rows, length = rows_of(jobs) or 1, max(job.length for job in jobs)
            self.table.learn(rows, length, outcome.run_ns)
