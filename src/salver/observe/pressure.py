"""What a process does when memory gets short: one step after the other, and back again.

Each step has a name and a part of the budget at which it begins. It ends when use has fallen some
way below that, so that a process at the border does not go back and forth. What is done at a step
is registered under its name by whoever can do it.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from salver.core.clock import Clock
from salver.observe.logs import get_logger
from salver.observe.meter import Meter

log = get_logger(__name__)

SHRINK = "shrink"
UNLOAD = "unload"
REFUSE_LARGE = "refuse_large"
REFUSE = "refuse"

_REPEAT_NS = 5_000_000_000
_CHECK_S = 0.25


class Step(NamedTuple):
    """A step and the part of the budget at which it begins."""

    name: str
    begin: float


STEPS = (Step(SHRINK, 0.80), Step(UNLOAD, 0.87), Step(REFUSE_LARGE, 0.92), Step(REFUSE, 0.96))
SLACK = 0.05


class Pressure:
    """How many steps have begun: 0 for none."""

    def __init__(self, steps: tuple[Step, ...] = STEPS, slack: float = SLACK) -> None:
        self.level = 0
        self._steps = steps
        self._slack = slack

    def move(self, share: float) -> int:
        """Take the part of the budget that is in use; returns the level."""
        steps = self._steps
        while self.level < len(steps) and share >= steps[self.level].begin:
            self.level += 1
        while self.level and share < steps[self.level - 1].begin - self._slack:
            self.level -= 1
        return self.level


class _Action(NamedTuple):
    name: str
    act: Callable[[], object]
    over: Callable[[], object] | None


class MemoryGuard:
    """Looks at the memory in use and acts.

    ``share`` measures the part of the budget that is in use. ``labels`` are the process's role and
    identity.
    """

    def __init__(
        self, share: Callable[[], float], clock: Clock, meter: Meter, labels: tuple[str, str]
    ) -> None:
        self._share = share
        self._clock = clock
        self._meter = meter
        self._labels = labels
        self._pressure = Pressure()
        self._actions: dict[str, list[_Action]] = {step.name: [] for step in STEPS}
        self._acted_ns = clock.monotonic_ns()

    def on(
        self,
        step: str,
        name: str,
        act: Callable[[], object],
        over: Callable[[], object] | None = None,
    ) -> None:
        """Register an action of a step.

        With ``over`` it is done when the step begins, and ``over`` when it ends; without, it is
        done again from time to time while the step lasts.
        """
        self._actions[step].append(_Action(name, act, over))

    def check(self) -> None:
        """Measure once, and do what is to be done."""
        before, share = self._pressure.level, self._share()
        level, now_ns = self._pressure.move(share), self._clock.monotonic_ns()
        if level != before:
            log.warning("memory_pressure", level=level, used=round(share, 3))
            self._meter.set("salver_memory_pressure", self._labels, level)
        again = now_ns - self._acted_ns >= _REPEAT_NS
        for index, step in enumerate(STEPS):
            begins, lasts = before <= index < level, index < min(before, level)
            for action in self._actions[step.name]:
                if begins or (lasts and again and action.over is None):
                    self._do(action.name, action.act)
                elif level <= index < before and action.over is not None:
                    self._do(action.name, action.over)
        if again or level > before:
            self._acted_ns = now_ns

    def _do(self, name: str, act: Callable[[], object]) -> None:
        self._meter.add("salver_memory_actions_total", (self._labels[0], name))
        try:
            act()
        except Exception:  # the other actions are needed all the more
            log.exception("memory_action_failed", action=name)

    async def watch(self) -> None:
        """Check for ever."""
        while True:
            self.check()
            await asyncio.sleep(_CHECK_S)
