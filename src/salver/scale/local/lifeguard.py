"""Kills workers whose process lives but does nothing any more, so that another can take its place.

A process that was stopped, or whose code holds the interpreter and its watchdog's thread, ends by
nothing of its own. What it held is answered by the retry rule once its links are gone.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from salver.core.clock import Clock
from salver.observe.lines import say
from salver.scale.local.process import Child
from salver.wire.pulse import Beat, read

_INTERVAL_S = 0.5
_LATE_NS = 2_000_000_000


class Lifeguard:
    """Component that looks at the pulses in ``folder`` of those ``children`` that are workers."""

    def __init__(self, folder: Path, clock: Clock, children: Callable[[], Iterable[Child]]) -> None:
        self._folder = folder
        self._clock = clock
        self._children = children
        self._suspects: dict[str, Beat] = {}
        self._looked_ns = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now and then."""
        self._task = asyncio.create_task(self._look_for_ever())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self) -> None:
        """Kill whose pulse was overdue at the last look already.

        After a pause of this process's own, in which the whole machine may have stood still,
        everybody has another chance.
        """
        now_ns = self._clock.monotonic_ns()
        was_away = now_ns - self._looked_ns > _LATE_NS
        self._looked_ns = now_ns
        before, self._suspects = self._suspects, {}
        for child in self._children():
            identity = child.command.identity
            if child.command.role != "worker" or child.pid is None:
                continue
            beat = read(self._folder, identity)
            if beat is None or beat.due_ns >= now_ns:
                continue
            if before.get(identity) == beat and not was_away:
                silent_s = (now_ns - beat.beaten_ns) / 1e9
                say(f"{identity} has given no sign of life for {silent_s:.1f} s; it is killed")
                child.hurry()
            else:
                self._suspects[identity] = beat

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self.look()
