"""A queue for each shape of request, so that one odd request cuts nobody else's batch."""

from bisect import insort_left, insort_right
from collections import deque
from itertools import islice

from salver.engine.worker.form import ALONE
from salver.engine.worker.job import Job
from salver.engine.worker.pick import Limits, Pick, Picker, fill

_SCAN_LIMIT = 256

Lane = deque[Job]


class LaneQueue:
    """Waiting jobs of one version; ``requests`` counts what they ask together.

    Jobs of one key wait in one lane, by priority and then by age. The lane whose first job comes
    first by the same rule is served next. ``pick`` composes its batch; None takes whatever fits.
    """

    def __init__(self) -> None:
        self.pick: Picker | None = None
        self.requests = 0
        self._lanes: dict[tuple[object, ...], Lane] = {}

    def __bool__(self) -> bool:
        """Tell whether anything waits."""
        return bool(self._lanes)

    def append(self, job: Job) -> None:
        """Queue a job behind all others of its priority."""
        lane = self._lane(job)
        if lane and lane[-1].priority > job.priority:
            insort_right(lane, job, key=_priority)
        else:
            lane.append(job)
        self.requests += len(job.ids)

    def put_back(self, jobs: list[Job]) -> None:
        """Queue jobs before all others of their priority, in their order."""
        for job in reversed(jobs):
            lane = self._lane(job)
            if lane and lane[0].priority < job.priority:
                insort_left(lane, job, key=_priority)
            else:
                lane.appendleft(job)
            self.requests += len(job.ids)

    def clear(self) -> list[Job]:
        """Remove and return everything."""
        jobs = [job for lane in self._lanes.values() for job in lane]
        self._lanes.clear()
        self.requests = 0
        return jobs

    @property
    def oldest(self) -> Job:
        """The job that the next batch is built around."""
        return self._next()[0]

    def take(self, max_rows: int) -> list[Job]:
        """Remove the next batch, at most ``max_rows`` rows where that is a request at all."""
        lane = self._next()
        first = lane[0]
        if first.key is ALONE or (len(lane) == 1 and len(first.ids) == 1):
            batch = [lane.popleft()]
        elif self.pick is not None:
            batch = _removed(lane, self.pick(list(islice(lane, _SCAN_LIMIT)), max_rows))
        elif sum([job.rows * len(job.ids) for job in lane]) <= max_rows:
            batch = [*lane]
            lane.clear()
        else:
            batch = _removed(lane, fill(list(islice(lane, _SCAN_LIMIT)), Limits(max_rows)))
        if not lane:
            del self._lanes[first.key]
        self.requests -= sum([job.count for job in batch])
        return batch

    def _lane(self, job: Job) -> Lane:
        lane = self._lanes.get(job.key)
        if lane is None:
            lane = self._lanes[job.key] = deque()
        return lane

    def _next(self) -> Lane:
        lanes = self._lanes.values()
        if len(lanes) == 1:
            return next(iter(lanes))
        return min(lanes, key=lambda lane: (lane[0].priority, lane[0].arrival_ns))


def _removed(lane: Lane, picks: list[Pick]) -> list[Job]:
    """Take picked requests out of a lane; returns them, those of one length beside each other."""
    if len(picks) == len(lane) and all(pick.requests == pick.job.count for pick in picks):
        batch = [*lane]
        lane.clear()
    else:
        batch = _picked(lane, picks)
    first = batch[0].length
    if any(job.length != first for job in batch):
        batch.sort(key=_length)
    return batch


def _picked(lane: Lane, picks: list[Pick]) -> list[Job]:
    counts = {id(pick.job): pick.requests for pick in picks}
    batch: list[Job] = []
    passed: list[Job] = []
    while len(batch) < len(counts):
        job = lane.popleft()
        count = counts.get(id(job))
        if count is None:
            passed.append(job)
        elif count == job.count:
            batch.append(job)
        else:
            taken, rest = job.part(0, count), job.part(count, job.count)
            for part in (taken, rest):
                part.reply.begin(part)
            batch.append(taken)
            passed.append(rest)
    lane.extendleft(reversed(passed))
    return batch


def _priority(job: Job) -> int:
    return job.priority


def _length(job: Job) -> int:
    return job.length
