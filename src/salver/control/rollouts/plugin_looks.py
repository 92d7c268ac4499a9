"""Metrics of plug-ins are computed apart from Salver's own, which judge harm whatever they do."""

import asyncio
from collections.abc import Callable

from salver.control.rollouts.analyst import Look
from salver.control.rollouts.judging import finding_of, judge_policy
from salver.control.rollouts.lane import Lane
from salver.core.clock import Clock
from salver.observe.logs import get_logger
from salver.rollout.analysis import ask_plugins, with_plugins
from salver.rollout.machine import HOLD, PAUSE, Finding, Rollout
from salver.rollout.report import MetricReport

log = get_logger(__name__)

AT_ONCE = 8
"""How many plug-ins run at a time, and with how many that have not come back no other begins."""
_GIVEN_UP = "salver_rollout_analyses_given_up_total"


class PluginLooks:
    """Has metrics of plug-ins computed, for ``limit_s`` at most and one call for each endpoint.

    Those that have not come back by then have *failed*. ``count`` adds one to a counter.
    """

    def __init__(
        self, clock: Clock, limit_s: float, count: Callable[[str, tuple[str, ...]], None]
    ) -> None:
        self._clock = clock
        self._limit_ns = round(limit_s * 1e9)
        self._count = count
        self._room = asyncio.Semaphore(AT_ONCE)
        self._lanes: dict[str, Lane] = {}

    def give_up(self) -> list[str]:
        """Wait no longer for what has taken too long; returns for which endpoints that is new."""
        self._lanes = {name: lane for name, lane in self._lanes.items() if lane.busy_ns}
        late = [
            endpoint
            for endpoint, lane in self._lanes.items()
            if lane.busy_ns > self._limit_ns and not lane.given_up
        ]
        for endpoint in late:
            self._lanes[endpoint].give_up()
            self._count(_GIVEN_UP, (endpoint,))
            log.error("plugin_given_up", endpoint=endpoint)
        return late

    async def complete(self, rollout: Rollout, look: Look) -> tuple[Look, str]:
        """Return a look with what plug-ins say, and why it pauses if they could not be asked.

        One that needs none of them stays as it is.
        """
        unasked = look.unasked
        if unasked is None:
            return look, ""
        judged, found = judge_policy(rollout.policy), dict[str, MetricReport]()
        problem = await self._ask(
            rollout.endpoint, lambda: ask_plugins(judged, unasked.observed, found)
        )
        if problem is None:
            waiting = Finding(HOLD, "a plug-in is at work still", {})
            return look._replace(finding=waiting, unasked=None), ""
        report = with_plugins(unasked.report, judged, dict(found), problem)
        finding = finding_of(rollout, judged, report)
        why = finding.reason if problem and finding.kind == PAUSE else ""
        return look._replace(finding=finding, unasked=None), why

    async def _ask(self, endpoint: str, work: Callable[[], None]) -> str | None:
        """Return why metrics that are not there are not; None while an earlier call goes on."""
        async with self._room:
            lane = self._lanes.get(endpoint)
            if lane is not None and lane.busy_ns:
                return _late(lane) if lane.given_up else None
            if sum([one.given_up and one.busy_ns > 0 for one in self._lanes.values()]) >= AT_ONCE:
                many = f"{AT_ONCE} plug-ins have not come back"
                return f"{many}; none begins until one has, or control is restarted"
            lane = self._lanes[endpoint] = Lane(f"look-{endpoint}-plug-ins", self._clock)
            try:
                await lane(work)
            except Exception as error:  # what it raises is no reason to judge nothing
                return _late(lane) if lane.given_up else f"{type(error).__name__}: {error}"
        return ""


def _late(lane: Lane) -> str:
    return f"its plug-in has not come back for {lane.busy_ns / 1e9:.0f} s"
