"""Steps that are taken when memory gets short, and how its use is measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.clock import ManualClock
from salver.observe.memory import memory_share, resident_bytes
from salver.observe.meter import Meter
from salver.observe.pressure import (
    REFUSE,
    REFUSE_LARGE,
    SHRINK,
    SLACK,
    STEPS,
    UNLOAD,
    MemoryGuard,
    Pressure,
)


@pytest.mark.parametrize(
    ("before", "share", "after"),
    [
        (0, 0.79, 0),
        (0, 0.80, 1),
        (0, 0.90, 2),
        (0, 0.95, 3),
        (0, 0.96, 4),
        (0, 5.0, 4),
        (4, 0.92, 4),
        (4, 0.90, 3),
        (3, 0.88, 3),
        (3, 0.86, 2),
        (2, 0.83, 2),
        (2, 0.81, 1),
        (1, 0.76, 1),
        (1, 0.74, 0),
        (4, 0.0, 0),
    ],
)
def test_steps(before: int, share: float, after: int) -> None:
    """Each step begins at its part of the budget and ends a twentieth below it."""
    pressure = Pressure()
    pressure.level = before
    assert pressure.move(share) == after


@given(st.lists(st.floats(0, 1.2), max_size=50))
def test_it_does_not_go_back_and_forth(shares: list[float]) -> None:
    """A step that has begun ends only after use has fallen by the slack, and never out of order."""
    pressure, level = Pressure(), 0
    for share in shares:
        moved = pressure.move(share)
        for index, step in enumerate(STEPS):
            if share >= step.begin:
                assert moved > index
            elif share < step.begin - SLACK:
                assert moved <= index
            else:
                assert (moved > index) == (level > index)
        level = moved


class Watched:
    """A guard whose measure is set by hand, and a list of what it did."""

    def __init__(self) -> None:
        self.share = 0.0
        self.done: list[str] = []
        self.clock = ManualClock()
        self.meter = Meter()
        labels = ("gateway", "gateway-0")
        self.guard = MemoryGuard(lambda: self.share, self.clock, self.meter, labels)
        self.guard.on(SHRINK, "caches", lambda: self.done.append("caches"))
        self.guard.on(
            REFUSE, "requests", lambda: self.done.append("close"), lambda: self.done.append("open")
        )

    def check(self, share: float) -> list[str]:
        """Check at a part of the budget; returns what was done."""
        self.share, self.done = share, []
        self.guard.check()
        return self.done


def test_actions() -> None:
    """Actions are done when their step begins; those that end are ended when it does."""
    watched = Watched()
    assert watched.check(0.5) == []
    assert watched.check(0.97) == ["caches", "close"]
    assert watched.check(0.97) == []
    assert watched.check(0.93) == []
    assert watched.check(0.85) == ["open"]
    assert watched.check(0.1) == []
    assert {sample.labels: sample.value for sample in watched.meter.counters()} == {
        ("gateway", "caches"): 1,
        ("gateway", "requests"): 2,
    }
    assert [sample.value for sample in watched.meter.gauges()] == [0]


def test_shrinking_is_repeated_while_memory_is_short() -> None:
    """What can be done again is, but not at each look."""
    watched = Watched()
    assert watched.check(0.9) == ["caches"]
    watched.clock.advance(4.9)
    assert watched.check(0.9) == []
    watched.clock.advance(0.1)
    assert watched.check(0.9) == ["caches"]
    assert watched.check(0.9) == []


def test_an_action_that_fails_keeps_no_other_from_being_done() -> None:
    """The fault is logged and the rest is done."""
    watched = Watched()
    watched.guard.on(UNLOAD, "broken", lambda: 1 / 0)
    watched.guard.on(REFUSE_LARGE, "large", lambda: watched.done.append("large"))
    assert watched.check(1.0) == ["caches", "large", "close"]


def test_a_budget_of_its_own() -> None:
    """A process that may use as much as it uses has used all of it; without a budget, nothing."""
    used = memory_share(resident_bytes(), with_group=False)()
    assert 0.5 < used < 2.0
    assert memory_share(0, with_group=False)() == 0.0
