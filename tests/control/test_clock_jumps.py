"""A wall clock that is set ahead or back changes neither who is in charge nor a rollout."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from salver.core.clock import ManualClock
from salver.registry.lease import STALE_S
from salver.rollout.machine import MAX_TICK_S, Rollout
from tests.control.parts import Control, control
from tests.control.test_rollout_runner import ROLLOUT, canary

DAY_S = 86_400.0


def running(parts: Control) -> Rollout:
    """Begin a rollout with ten minutes of time, and look at it once."""
    limits = msgspec.structs.replace(ROLLOUT.policy, max_duration_s=600.0, no_traffic_s=600.0)
    parts.begin(msgspec.structs.replace(ROLLOUT, policy=limits))
    canary(parts, 7, "s1")
    asyncio.run(parts.runner._tick())
    return parts.runner.current["e"]


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_whoever_is_in_charge_stays_so(
    parts: Control, tmp_path: Path, clock: ManualClock, jump_s: float
) -> None:
    """A standby counts the time for which it saw nothing by its monotonic clock."""
    other = control(tmp_path, "two", clock)
    assert parts.lease.renew()
    assert not other.lease.renew()
    clock.set_wall(jump_s)
    assert not other.lease.renew()
    assert parts.lease.renew()
    clock.advance(STALE_S)
    assert not other.lease.renew(), "its renewal was seen just now"
    clock.set_wall(-2 * jump_s)
    clock.advance(STALE_S)
    assert other.lease.renew(), "nobody has renewed for as long as that takes"
    other.thread.stop()


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_a_rollout_spends_no_time(parts: Control, clock: ManualClock, jump_s: float) -> None:
    """It neither runs out of its time nor is short of traffic, and goes on after the jump."""
    before = running(parts)
    clock.set_wall(jump_s)
    asyncio.run(parts.runner._tick())
    assert parts.runner.current["e"] == before
    clock.advance(1.0)
    asyncio.run(parts.runner._tick())
    after = parts.runner.current["e"]
    assert (after.state, after.running_s) == ("running", before.running_s + 1.0)


def test_a_machine_that_slept_counts_a_few_seconds(parts: Control, clock: ManualClock) -> None:
    """What passed while nothing ran is not time in which the rollout could have got traffic."""
    before = running(parts)
    clock.advance(DAY_S)
    asyncio.run(parts.runner._tick())
    after = parts.runner.current["e"]
    assert (after.state, after.running_s) == ("running", before.running_s + MAX_TICK_S)
