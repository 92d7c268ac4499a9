"""When a worker gives up on code that does not come back."""

import asyncio

import pytest

from salver.core.clock import SystemClock
from salver.engine.worker.form import ALONE, form_of
from salver.engine.worker.job import Job
from salver.engine.worker.watchdog import Watchdog
from tests.engine.worker.test_batch import NoReply

CLOCK = SystemClock()


def job(left_s: float, count: int = 1) -> Job:
    """Return requests that have so much time left."""
    now_ns = CLOCK.monotonic_ns()
    deadline_ns = now_ns + round(left_s * 1e9)
    form = form_of((), None)
    return Job(NoReply(), tuple(range(count)), form, b"", now_ns, deadline_ns, 1, ALONE)


async def order(jobs: list[Job], stuck_s: float, *, hurried: bool) -> list[str]:
    """Return what came first: the watchdog, or most of the time that the run may take.

    The loop calls what is due in the order of its time, however late it is.
    """
    seen: list[str] = []
    over = asyncio.Event()

    def happened(what: str) -> None:
        seen.append(what)
        if len(seen) == 2:
            over.set()

    watchdog = Watchdog(CLOCK, stuck_s, lambda: happened("given up"))
    watchdog.begin(jobs, lambda: hurried)
    left_s = (min(one.deadline_ns for one in jobs) - CLOCK.monotonic_ns()) / 1e9
    asyncio.get_running_loop().call_later(max(stuck_s, left_s) * 0.9, happened, "time is up")
    async with asyncio.timeout(60):
        await over.wait()
    return seen


@pytest.mark.parametrize(
    ("others", "count", "hurried", "first"),
    [
        ([], 1, False, "time is up"),
        ([], 1, True, "given up"),
        ([9.0], 1, False, "given up"),
        ([], 2, False, "given up"),
    ],
    ids=["alone", "alone, others wait", "a batch", "a cohort"],
)
def test_a_batch_gets_half_of_the_time_one_request_all(
    others: list[float], count: int, hurried: bool, first: str
) -> None:
    """Only a request that nobody waits behind has its time to itself."""
    jobs = [job(3.0, count), *(job(left_s) for left_s in others)]
    assert asyncio.run(order(jobs, 0.1, hurried=hurried))[0] == first


@pytest.mark.parametrize(
    ("others", "hurried", "first"),
    [([], False, "time is up"), ([9.0], False, "time is up"), ([], True, "given up")],
    ids=["alone", "a batch", "alone, others wait"],
)
def test_a_caller_in_a_hurry_shortens_no_run(
    others: list[float], hurried: bool, first: str
) -> None:
    """Whoever gives up at once, the run has the server's own time; half where others wait."""
    jobs = [job(0.01), *(job(left_s) for left_s in others)]
    # A batch that a patient caller is in has no more time than the one in a hurry gives it.
    assert asyncio.run(order(jobs, 2.0, hurried=hurried))[0] == first


def test_a_run_that_comes_back_is_left_alone() -> None:
    """After its end nothing happens any more, also when the time is over."""

    async def run() -> bool:
        over = asyncio.Event()
        watchdog = Watchdog(CLOCK, 0.01, over.set)
        watchdog.begin([job(0.01)], lambda: False)
        watchdog.end()
        await asyncio.sleep(0.2)
        return over.is_set()

    assert not asyncio.run(run())
