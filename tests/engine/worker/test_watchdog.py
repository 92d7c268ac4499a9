"""When a worker gives up on code that does not come back."""

import asyncio

import pytest

from salver.core.clock import SystemClock
from salver.engine.worker.job import ALONE, Job
from salver.engine.worker.watchdog import Watchdog
from salver.wire.messages import Infer
from tests.engine.worker.test_batch import NoReply

CLOCK = SystemClock()


def job(left_s: float, count: int = 1) -> Job:
    """Return requests that have so much time left."""
    now_ns = CLOCK.monotonic_ns()
    deadline_ns = now_ns + round(left_s * 1e9)
    infer = Infer(0, "m:1", (), 0, "")
    return Job(NoReply(), tuple(range(count)), infer, b"", now_ns, deadline_ns, 1, ALONE)


async def gave_up_after(jobs: list[Job], *, hurried: bool) -> float:
    """Return when the watchdog gave up, as a share of the first request's time."""
    over = asyncio.Event()
    watchdog = Watchdog(CLOCK, over.set)
    began_ns = CLOCK.monotonic_ns()
    left_s = (min(one.deadline_ns for one in jobs) - began_ns) / 1e9
    watchdog.begin(jobs, lambda: hurried)
    async with asyncio.timeout(60):
        await over.wait()
    return (CLOCK.monotonic_ns() - began_ns) / 1e9 / left_s


@pytest.mark.parametrize(
    ("jobs", "hurried", "at_least"),
    [
        ([job(1.0)], False, 1.0),
        ([job(1.0)], True, 0.5),
        ([job(3.0), job(1.0)], False, 0.5),
        ([job(1.0, count=2)], False, 0.5),
    ],
    ids=["alone", "alone, others wait", "a batch", "a cohort"],
)
def test_a_batch_gets_half_of_the_time_one_request_all(
    jobs: list[Job], hurried: bool, at_least: float
) -> None:
    """Nobody is given up earlier than that; that it happens at all ends the test."""
    now_ns = CLOCK.monotonic_ns()
    for one in jobs:
        one.deadline_ns += now_ns - one.arrival_ns
    assert asyncio.run(gave_up_after(jobs, hurried=hurried)) >= at_least


def test_a_run_that_comes_back_is_left_alone() -> None:
    """After its end nothing happens any more, also when the time is over."""

    async def run() -> bool:
        over = asyncio.Event()
        watchdog = Watchdog(CLOCK, over.set)
        watchdog.begin([job(0.01)], lambda: False)
        watchdog.end()
        await asyncio.sleep(0.2)
        return over.is_set()

    assert not asyncio.run(run())
