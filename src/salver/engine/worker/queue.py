"""Jobs that wait for their batch."""

from collections import deque
from collections.abc import Iterable

from salver.engine.worker.form import ALONE
from salver.engine.worker.job import Job

_SCAN_LIMIT = 256


class JobQueue:
    """Waiting jobs of one version, oldest first; ``requests`` counts what they ask together.

    The plain queue, which heeds neither priorities nor what a batch is worth. ``max_tokens`` limits
    the tokens of a batch, 0 for any number.
    """

    def __init__(self, jobs: Iterable[Job] = (), max_tokens: int = 0) -> None:
        self.max_tokens = max_tokens
        self._jobs = deque(jobs)
        self.requests = sum([job.count for job in self._jobs])

    def __bool__(self) -> bool:
        """Tell whether anything waits."""
        return bool(self._jobs)

    def append(self, job: Job) -> None:
        """Queue a job behind all others."""
        self._jobs.append(job)
        self.requests += len(job.ids)

    def put_back(self, jobs: list[Job]) -> None:
        """Queue jobs before all others, in their order."""
        self._jobs.extendleft(reversed(jobs))
        self.requests += sum([job.count for job in jobs])

    def clear(self) -> list[Job]:
        """Remove and return everything."""
        jobs = list(self._jobs)
        self._jobs.clear()
        self.requests = 0
        return jobs

    @property
    def oldest(self) -> Job:
        """The job that the next batch is built around."""
        return self._jobs[0]

    def take(self, max_rows: int) -> list[Job]:
        """Remove the oldest job and those that fit with it, at most ``max_rows`` rows together.

        Jobs passed over keep their order; one of several requests that fits in part is cut.
        """
        jobs = self._jobs
        first = jobs[0]
        if self.max_tokens:
            max_rows = min(max_rows, self.max_tokens // first.length)
        if len(jobs) == 1 and (len(first.ids) == 1 or first.rows * len(first.ids) <= max_rows):
            self.requests = 0
            return [jobs.popleft()]
        if first.key is not ALONE and self._all_fit(max_rows):
            return self.clear()
        batch = [self._cut(jobs.popleft(), max_rows)]
        rows, passed = batch[0].all_rows, list[Job]()
        if first.key is not ALONE:
            while jobs and rows < max_rows and len(passed) < _SCAN_LIMIT:
                job = jobs.popleft()
                if job.key == first.key and rows + job.rows <= max_rows:
                    job = self._cut(job, max_rows - rows)
                    batch.append(job)
                    rows += job.all_rows
                else:
                    passed.append(job)
            jobs.extendleft(reversed(passed))
        self.requests -= sum([job.count for job in batch])
        return batch

    def _all_fit(self, max_rows: int) -> bool:
        key, rows = self._jobs[0].key, 0
        for job in self._jobs:
            rows += job.all_rows
            if job.key != key or rows > max_rows:
                return False
        return True

    def _cut(self, job: Job, max_rows: int) -> Job:
        """Return as much of a job as fits, at least one request; the rest stays in front."""
        count = job.count
        if count == 1 or job.all_rows <= max_rows:
            return job
        fitting = max(1, max_rows // job.rows)
        if fitting >= count:
            return job
        taken, rest = job.part(0, fitting), job.part(fitting, count)
        for part in (taken, rest):
            part.reply.begin(part)
        self._jobs.appendleft(rest)
        return taken
