"""Whether a batch runs in the event loop, which saves handing it to a thread, or in a thread."""

from collections.abc import Sequence

from salver.core.settings import EngineSettings
from salver.engine.worker.job import Job

_SMOOTHING = 0.2
_US_NS = 1000
_MORE = 8
_FAR = 10


class Inline:
    """Learns how long batches run, and up to which size they are short.

    With ``engine.runner`` *auto* a batch runs in the loop while runs are short in the mean, unless
    it is much larger than all that were: nothing is known of those, and a long one would keep the
    loop from everything else, for which the whole process might be taken for dead.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._is_always = settings.runner == "inline"
        self._is_auto = settings.runner == "auto"
        self._limit_ns = settings.inline_limit_us * _US_NS
        self._mean_ns: float | None = None
        self._most_bytes = 0

    def allows(self, jobs: Sequence[Job]) -> bool:
        """Tell whether a batch may run in the loop."""
        if self._is_always:
            return True
        mean_ns = self._mean_ns
        return (
            mean_ns is not None and mean_ns <= self._limit_ns and _bytes(jobs) <= self._most_bytes
        )

    def took(self, jobs: Sequence[Job], run_ns: int) -> None:
        """Take note of how long a batch ran."""
        if not self._is_auto:
            return
        mean_ns = self._mean_ns
        self._mean_ns = run_ns if mean_ns is None else mean_ns + _SMOOTHING * (run_ns - mean_ns)
        if run_ns <= self._limit_ns:
            self._most_bytes = max(self._most_bytes, _MORE * _bytes(jobs))
        elif run_ns > _FAR * self._limit_ns:
            self._most_bytes = min(self._most_bytes, _bytes(jobs) - 1)


def _bytes(jobs: Sequence[Job]) -> int:
    if len(jobs) == 1:
        return len(jobs[0].payload)
    return sum([len(job.payload) for job in jobs])
