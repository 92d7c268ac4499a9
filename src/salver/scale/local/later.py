"""Tries again what this machine had no room for, and says so once."""

import asyncio
from collections.abc import Callable, Collection

from salver.observe.lines import say

_PAUSE_S = 1.0


class Later:
    """Component that calls ``again`` a while after something has failed.

    ``failing`` are the names of what does. The first failure of each is said, and its end; what is
    still failing has to be told at each try.
    """

    def __init__(self, again: Callable[[], None], pause_s: float = _PAUSE_S) -> None:
        self.failing: set[str] = set()
        self._again = again
        self._pause_s = pause_s
        self._timer: asyncio.TimerHandle | None = None
        self._has_stopped = False

    def failed(self, name: str, told: str) -> None:
        """Try again after a pause."""
        if name not in self.failing:
            self.failing.add(name)
            say(f"{told}; tried again every {self._pause_s:g} s")
        if self._timer is None and not self._has_stopped:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._pause_s, self._call)

    def worked(self, name: str) -> None:
        """Say so if it did not before."""
        if name in self.failing:
            self.failing.discard(name)
            say(f"{name}: works again")

    def keep(self, names: Collection[str]) -> None:
        """Forget what is not among these."""
        self.failing.intersection_update(names)

    def stop(self) -> None:
        """Try no more."""
        self._has_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _call(self) -> None:
        self._timer = None
        if self.failing:
            self._again()
