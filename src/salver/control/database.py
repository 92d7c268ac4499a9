"""The one thread that talks to the database."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class DatabaseThread:
    """Runs one piece of work after the other."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="database")

    async def __call__(self, work: Callable[[], Result]) -> Result:
        """Run ``work`` there and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def stop(self) -> None:
        """Finish what was begun."""
        self._executor.shutdown(wait=True)
