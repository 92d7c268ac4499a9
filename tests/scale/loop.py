"""Runs a test in an event loop of its own."""

import asyncio
import functools
from collections.abc import Callable, Coroutine


def in_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Make a test of a coroutine, as the supervisor would run it."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run
