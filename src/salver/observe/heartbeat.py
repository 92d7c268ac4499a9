"""Says that this process lives, for as long as its event loop comes round."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

from salver.core.clock import Clock
from salver.observe.logs import get_logger
from salver.wire.pulse import Pulse, forget

log = get_logger(__name__)

_INTERVAL_S = 1.0
_BEATS = 4


def open_pulse(folder: Path, process: str) -> Pulse | None:
    """Map this process's note; None where there is no room, and then nobody looks after it."""
    try:
        return Pulse.open(folder, process)
    except OSError as error:
        # What the supervisor promised for this process would be broken soon.
        forget(folder, process)
        log.warning("no_pulse", cause=str(error))
        return None


class Heartbeat:
    """Component that promises again and again that this process will be back in ``limit_s``.

    Who breaks a promise is killed by the supervisor of this machine, which looks into ``folder``.
    With a limit of 0 nothing is promised.
    """

    def __init__(self, folder: Path, process: str, limit_s: float, clock: Clock) -> None:
        self._folder = folder
        self._process = process
        self._limit_s = limit_s
        self._clock = clock
        self._pulse: Pulse | None = None
        self._task: asyncio.Task[None] | None = None

    async def during(self, work: Awaitable[None], ending_s: float) -> None:
        """Do the ``work`` of this process, which may take so long to end afterwards."""
        self.start()
        try:
            await work
        finally:
            await self.stop(ending_s)

    def start(self) -> None:
        """Be looked at from now on; without room for a note this is left out."""
        if self._limit_s <= 0:
            # Settings may have changed since the supervisor has read them.
            forget(self._folder, self._process)
            return
        self._pulse = open_pulse(self._folder, self._process)
        if self._pulse is not None:
            self._task = asyncio.create_task(self._beat_for_ever(self._pulse))

    async def stop(self, ending_s: float) -> None:
        """Promise to be gone by then, and nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._pulse is not None:
            self._promise(self._pulse, max(ending_s, self._limit_s))
            self._pulse.close()
            self._pulse = None

    def _promise(self, pulse: Pulse, seconds: float) -> None:
        now_ns = self._clock.monotonic_ns()
        pulse.beat(now_ns, now_ns + round(seconds * 1e9))

    async def _beat_for_ever(self, pulse: Pulse) -> None:
        while True:
            self._promise(pulse, self._limit_s)
            await asyncio.sleep(min(_INTERVAL_S, self._limit_s / _BEATS))
