"""How busy a process is: the share of a core that it took of late."""

import asyncio
import time
from collections.abc import Callable

from salver.core.clock import Clock


class Busy:
    """Component that measures the processor time of its process, ten times a second.

    ``used_ns`` is what the process has used so far, all threads together.
    """

    def __init__(self, clock: Clock, used_ns: Callable[[], int] = time.process_time_ns) -> None:
        self.share = 0.0
        self._clock = clock
        self._used_ns = used_ns
        self._last_ns = (0, 0)

    def sample(self) -> None:
        """Measure since the last call."""
        now = (self._clock.monotonic_ns(), self._used_ns())
        past_ns, used_ns = now[0] - self._last_ns[0], now[1] - self._last_ns[1]
        if self._last_ns[0] and past_ns > 0:
            self.share = used_ns / past_ns
        self._last_ns = now

    async def watch(self, interval_s: float = 0.1) -> None:
        """Measure for ever."""
        while True:
            self.sample()
            await asyncio.sleep(interval_s)
