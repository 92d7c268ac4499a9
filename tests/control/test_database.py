"""The thread that talks to the database, while the database does not answer."""

import asyncio
import threading

import pytest

from salver.control.database import DatabaseThread, in_batches
from salver.core.errors import ControlUnavailable


def test_what_waits_too_long_is_refused_and_never_done() -> None:
    """A change that was refused must not happen later, when the database answers again."""
    free, done = threading.Event(), list[str]()

    def stuck() -> str:
        free.wait(30)
        done.append("first")
        return "first"

    async def run() -> None:
        thread = DatabaseThread(patience_s=0.05)
        first = asyncio.ensure_future(thread(stuck))
        await asyncio.sleep(0)
        with pytest.raises(ControlUnavailable, match="does not answer"):
            await thread(lambda: done.append("second"))
        free.set()
        # What has begun is waited for, since it may well happen.
        assert await first == "first"
        assert await thread(lambda: "third") == "third"
        thread.stop()

    asyncio.run(run())
    assert done == ["first"]


def test_others_take_their_turns_between_batches() -> None:
    """However much there is to do; what begins meanwhile waits for one batch only."""
    free, order, left = threading.Event(), list[str](), [2500]

    def batch(most: int) -> int:
        free.wait(30)
        order.append("batch")
        done = min(most, left[0])
        left[0] -= done
        return done

    async def run() -> None:
        thread = DatabaseThread()
        large = asyncio.ensure_future(in_batches(thread, batch))
        await asyncio.sleep(0)
        other = asyncio.ensure_future(thread(lambda: order.append("other")))
        await asyncio.sleep(0)
        free.set()
        await other
        assert await large == 2500
        thread.stop()

    asyncio.run(run())
    assert order == ["batch", "other", "batch", "batch", "batch"]


def test_what_nobody_waits_for_is_not_begun() -> None:
    """Work of a caller that has left goes with it, unless it has begun."""
    free, done = threading.Event(), list[str]()

    async def run() -> None:
        thread = DatabaseThread()
        first = asyncio.ensure_future(thread(lambda: free.wait(30)))
        second = asyncio.ensure_future(thread(lambda: done.append("second")))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        free.set()
        assert await first
        thread.stop()

    asyncio.run(run())
    assert done == []


def test_nothing_is_begun_once_it_stops() -> None:
    """A database that does not answer keeps a stop waiting for one piece of work, not for all."""
    free, done = threading.Event(), list[str]()

    async def run() -> None:
        thread = DatabaseThread(patience_s=30)
        first = asyncio.ensure_future(thread(lambda: free.wait(30)))
        second = asyncio.ensure_future(thread(lambda: done.append("second")))
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(asyncio.to_thread(thread.stop))
        await asyncio.wait((second,), timeout=5)
        free.set()
        await stopping
        assert await first
        assert second.cancelled()

    asyncio.run(run())
    assert done == []
