"""A thread for work that may never come back."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from salver.core.clock import Clock

Result = TypeVar("Result")


class Lane:
    """Runs one piece of work after the other, each in a thread that nobody waits for at the end.

    ``given_up`` tells that nobody waits any longer for what is at work.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._since_ns = 0
        self._answer: asyncio.Future[Any] | None = None
        self.given_up = False

    @property
    def busy_ns(self) -> int:
        """For how long it has been at work; 0 if it is not."""
        if self._thread is None or not self._thread.is_alive():
            return 0
        return max(1, self._clock.monotonic_ns() - self._since_ns)

    def give_up(self) -> None:
        """Let whoever waits for what is at work go on without it, with a ``TimeoutError``."""
        self.given_up = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TimeoutError("it has not come back"))

    async def __call__(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, or raise what it raises; not to be called while busy."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        self._answer = answer

        def settle(end: Callable[[], None]) -> None:
            if not answer.done():
                end()

        def run() -> None:
            try:
                result = work()
            except Exception as error:
                # A future takes no StopIteration.
                raised = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
                end = partial(answer.set_exception, raised)
            except BaseException as error:  # must end neither the loop nor the process
                end = partial(answer.set_exception, RuntimeError(repr(error)))
            else:
                end = partial(answer.set_result, result)
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(settle, end)

        self.given_up, self._since_ns = False, self._clock.monotonic_ns()
        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()
        return await answer
