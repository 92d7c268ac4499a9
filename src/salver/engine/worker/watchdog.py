"""Ends a worker whose model's code does not come back, so that others need not wait for it.

A thread cannot be ended from outside. When the process ends instead, the retry rule moves those
who waited and tries those of the running batch once more, each alone.
"""

import asyncio
import faulthandler
from collections.abc import Callable

from salver.core.clock import Clock
from salver.engine.worker.job import Job
from salver.runtimes.ending import STDERR, end_process

_GRACE_S = 0.05


class Watchdog:
    """Watches one version's runs; all methods are called on the event loop's thread.

    A run may take ``stuck_s``, however little time its callers have: they may give up early, which
    says nothing of the code. Callers with more time let it take longer: a batch of several half
    of what the first of them has left, so that the others can still be answered after a retry, a
    request that runs alone all of it. In quarantine, while others wait there, it gets half.
    ``begun`` is told of each run, and whether somebody else needs the time by then.
    """

    def __init__(
        self,
        clock: Clock,
        stuck_s: float,
        give_up: Callable[[], None] | None = None,
        begun: Callable[[bool], None] | None = None,
    ) -> None:
        self._clock = clock
        self._stuck_s = stuck_s
        self._give_up = give_up or end_process
        self._begun = begun
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, jobs: list[Job], hurried: Callable[[], bool]) -> None:
        """A run begins; ``hurried`` tells halfway whether somebody else needs the time."""
        if self._begun is not None:
            self._begun(hurried())
        left_s = (min(job.deadline_ns for job in jobs) - self._clock.monotonic_ns()) / 1e9
        if len(jobs) > 1 or jobs[0].count > 1:
            self._after(max(self._stuck_s, left_s / 2), self._give_up)
            return
        half_s = max(self._stuck_s, left_s) / 2
        self._after(half_s, lambda: self._halfway(half_s, is_enough=hurried()))

    def end(self) -> None:
        """The run came back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds + _GRACE_S, callback)

    def _halfway(self, left_s: float, *, is_enough: bool) -> None:
        if is_enough:
            self._give_up()
        else:
            self._after(left_s, self._give_up)


def expect_life(seconds: float) -> None:
    """End this process unless this is called again within so many seconds.

    Works also against code that never lets another thread run.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
