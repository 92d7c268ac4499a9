"""Kills processes that live but do nothing any more, so that others can take their places.

A process that was stopped, or whose code holds the interpreter and its watchdog's thread, ends by
nothing of its own. What a worker held is answered by the retry rule once its links are gone.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from salver.core.clock import Clock
from salver.core.settings import Settings
from salver.observe.lines import say
from salver.scale.local.process import Child
from salver.scale.local.start import Command
from salver.wire import pulse
from salver.wire.pulse import Beat

_INTERVAL_S = 0.5
_LATE_NS = 2_000_000_000
# Much longer than a start takes on a machine that has much else to do.
_LEAST_START_S = 120.0


class Lifeguard:
    """Component that looks at the pulses in ``folder`` of those ``children`` that have one."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        clock: Clock,
        children: Callable[[], Iterable[Child]],
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._children = children
        self._suspects: dict[str, Beat] = {}
        self._looked_ns = self._back_ns = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now and then."""
        self._task = asyncio.create_task(self._look_for_ever())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def expect(self, command: Command) -> None:
        """Promise for a process that is about to start when it will have come round first."""
        limit_s = self._limit_s(command.role)
        if limit_s <= 0:
            # The promise of the process before it would be broken soon.
            pulse.forget(self._folder, command.identity)
            return
        now_ns = self._clock.monotonic_ns()
        due_ns = now_ns + round(max(limit_s, _LEAST_START_S) * 1e9)
        try:
            pulse.expect(self._folder, command.identity, Beat(now_ns, due_ns))
        except OSError:
            # Without a note, as on a full disk, it is not watched; that of the process before it,
            # which may be overdue, would have this one killed.
            pulse.forget(self._folder, command.identity)

    def look(self) -> None:
        """Kill whose pulse was overdue at the last look already.

        After a pause of this process's own, in which the whole machine may have stood still,
        everybody has the time of its promise once more.
        """
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_ns > _LATE_NS:
            self._back_ns = now_ns
        self._looked_ns = now_ns
        before, self._suspects = self._suspects, {}
        for child in self._children():
            identity = child.command.identity
            beat = None if child.pid is None else pulse.read(self._folder, identity)
            if beat is None or beat.due_ns >= now_ns:
                continue
            promised_ns = beat.due_ns - beat.beaten_ns
            if before.get(identity) == beat and now_ns - self._back_ns > promised_ns:
                silent_s = (now_ns - beat.beaten_ns) / 1e9
                say(f"{identity} has given no sign of life for {silent_s:.1f} s; it is killed")
                child.hurry()
            else:
                self._suspects[identity] = beat

    def _limit_s(self, role: str) -> float:
        """Return for how long a process may give no sign of life; 0 = for ever."""
        settings = self._settings
        limits_s = {
            "worker": max(settings.engine.load_timeout_s, settings.engine.unresponsive_s),
            "gateway": settings.http.unresponsive_s,
            "control": settings.control.unresponsive_s,
        }
        return limits_s.get(role, 0.0)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self.look()
