"""The one thread that talks to the database."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from salver.core.errors import ControlUnavailable

Result = TypeVar("Result")

_PATIENCE_S = 10.0
_BATCH = 1000


class DatabaseThread:
    """Runs one piece of work after the other.

    What has not begun after ``patience_s``, since what came before takes so long, is never done.
    """

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="database")

    async def __call__(self, work: Callable[[], Result]) -> Result:
        """Run ``work`` there and return its result.

        Raises ``ControlUnavailable`` when its turn does not come, and then it has not been done.
        """
        future = self._executor.submit(work)
        result = asyncio.wrap_future(future)
        try:
            await asyncio.wait((result,), timeout=self._patience_s)
        except asyncio.CancelledError:
            result.cancel()
            raise
        if not result.done() and future.cancel():
            raise ControlUnavailable(
                "the database does not answer: what was asked of it before has taken "
                f"{self._patience_s:g} s"
            )
        return await result

    def stop(self) -> None:
        """Finish what was begun; what still waits for its turn is not done."""
        self._executor.shutdown(wait=True, cancel_futures=True)


async def in_batches(database: DatabaseThread, batch: Callable[[int], int]) -> int:
    """Do work of any size in portions, between which others take their turns; returns its size.

    ``batch`` is given the most that it may do, and returns how much it did: 0 when nothing is left.
    """
    total = 0
    while True:
        done = await database(lambda: batch(_BATCH))
        if not done:
            return total
        total += done
