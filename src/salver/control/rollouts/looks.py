"""Analyses run beside the loop that drives rollouts, so that one that hangs holds up nothing else.

A thread cannot be ended. One that does not come back is given up: what it says later is not heard,
and while it lives its endpoint gets no other. Plug-ins have threads of their own, so that Salver's
own metrics go on to judge while one of them hangs.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

from salver.control.rollouts.analyst import Analyst, Look
from salver.control.rollouts.lane import Lane
from salver.control.rollouts.plugin_looks import PluginLooks
from salver.core.clock import Clock
from salver.observe.logs import get_logger
from salver.observe.merge import Totals
from salver.rollout.machine import Rollout

log = get_logger(__name__)

AT_ONCE = 8
"""How many analyses run at a time."""
_PATIENCE_S = 0.5
_MAX_PROBLEM = 500
_GIVEN_UP = "salver_rollout_analyses_given_up_total"

Count = Callable[[str, tuple[str, ...]], None]


class Seen(NamedTuple):
    """What became of a look: what it found, why that is not all; neither while it goes on."""

    look: Look | None = None
    problem: str = ""


class _Open(NamedTuple):
    place: tuple[int, int]
    task: asyncio.Task[Seen]


class Looks:
    """Component that has rollouts analysed, each by itself and for ``limit_s`` at most.

    ``count`` adds one to a counter.
    """

    def __init__(self, analyst: Analyst, clock: Clock, limit_s: float, count: Count) -> None:
        self._analyst = analyst
        self._clock = clock
        self._limit_ns = round(limit_s * 1e9)
        self._count = count
        self._plugins = PluginLooks(clock, limit_s, count)
        self._room = asyncio.Semaphore(AT_ONCE)
        self._open: dict[str, _Open] = {}
        self._lanes: dict[str, Lane] = {}

    async def at(self, rollouts: Iterable[Rollout], totals: Totals) -> dict[str, Seen]:
        """Return what is known of rollouts as they are, by endpoint, soon.

        What is not known by then comes later, if the rollout is still as it is now.
        """
        current = {rollout.endpoint: rollout for rollout in rollouts}
        self._tidy(current)
        late = self._plugins.give_up()
        seen = {
            rollout.endpoint: self._begin(rollout, totals, is_late=rollout.endpoint in late)
            for rollout in current.values()
        }
        begun = [self._open[name].task for name, known in seen.items() if known is None]
        if begun:
            await asyncio.wait(begun, timeout=_PATIENCE_S)
        return {name: known or self._collected(name) for name, known in seen.items()}

    def drop(self, endpoint: str) -> None:
        """Hear no more of an endpoint's analysis; what its thread is at goes on to its end."""
        known = self._open.pop(endpoint, None)
        if known is not None:
            known.task.cancel()

    def stop(self) -> None:
        """Hear of none any more."""
        for endpoint in list(self._open):
            self.drop(endpoint)

    def _tidy(self, current: dict[str, Rollout]) -> None:
        for endpoint, known in list(self._open.items()):
            rollout = current.get(endpoint)
            if rollout is None or known.place != place(rollout):
                self.drop(endpoint)
        lanes = self._lanes.items()
        self._lanes = {name: lane for name, lane in lanes if name in current or lane.busy_ns}

    def _begin(self, rollout: Rollout, totals: Totals, *, is_late: bool) -> Seen | None:
        """Have a rollout analysed; returns None when that ends soon, else what is known."""
        endpoint = rollout.endpoint
        lane = self._lanes.setdefault(endpoint, Lane(f"look-{endpoint}", self._clock))
        busy_ns = lane.busy_ns
        if busy_ns > self._limit_ns:
            return self._give_up(endpoint, lane, busy_ns)
        if endpoint in self._open:
            return None if is_late else self._collected(endpoint)
        if busy_ns:
            return Seen()
        task = asyncio.create_task(self._look(rollout, totals, lane))
        self._open[endpoint] = _Open(place(rollout), task)
        return None

    def _collected(self, endpoint: str) -> Seen:
        """Return what an analysis found if it has ended; the next one begins anew then."""
        known = self._open.get(endpoint)
        if known is None or not known.task.done():
            return Seen()
        del self._open[endpoint]
        return Seen() if known.task.cancelled() else known.task.result()

    def _give_up(self, endpoint: str, lane: Lane, busy_ns: int) -> Seen:
        self.drop(endpoint)
        if not lane.given_up:
            lane.given_up = True
            self._count(_GIVEN_UP, (endpoint,))
            log.error("analysis_given_up", endpoint=endpoint)
        return Seen(problem=f"the analysis has not come back for {busy_ns / 1e9:.0f} s")

    async def _look(self, rollout: Rollout, totals: Totals, lane: Lane) -> Seen:
        try:
            async with self._room:
                own = await self._analyst.look(rollout, totals, lane)
            look, problem = await self._plugins.complete(rollout, own)
            return Seen(look, problem[:_MAX_PROBLEM])
        except Exception as error:  # whatever it raises, a person has to look
            return failed(rollout.endpoint, error)


def failed(endpoint: str, error: Exception) -> Seen:
    """Return what an analysis that raised has to say, which is written to the log as well."""
    log.error("analysis_failed", endpoint=endpoint, exc_info=error)
    text = f"the analysis failed ({type(error).__name__}: {error})"
    return Seen(problem=text[:_MAX_PROBLEM])


def place(rollout: Rollout) -> tuple[int, int]:
    """Return where in its course a rollout is: no two states of an endpoint are at one place."""
    return rollout.number, rollout.sequence
