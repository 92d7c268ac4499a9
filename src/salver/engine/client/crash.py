"""Tells callers why the process that held their request died."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from salver.core.errors import MemoryLimitExceeded, SalverError, WorkerCrashed
from salver.engine.client.pending import Pending
from salver.wire.ends import End, read

_WAIT_S, _POLL_S = 1.0, 0.005


class Death(NamedTuple):
    """A process of a worker whose end its parent will note, or has noted, in ``folder``."""

    folder: Path
    worker: str
    pid: int

    def noted(self) -> End | None:
        """Return how the process ended, None while that is not known."""
        end = read(self.folder, self.worker)
        return end if end is not None and end.pid == self.pid else None


class Deaths:
    """Component that ends requests when it is known why their worker died, or after a second.

    ``end`` gives a request its final answer. Where nobody notes ends, that is at once.
    """

    def __init__(self, end: Callable[[Pending, SalverError], None]) -> None:
        self._end = end
        self._waiting: dict[Death, list[Pending]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open_count(self) -> int:
        """Requests whose callers still wait."""
        return sum(not pending.done for held in self._waiting.values() for pending in held)

    def mourn(self, pending: Pending, death: Death | None) -> None:
        """End a request that is not tried again."""
        if death is None:
            self._end(pending, crashed(pending, None))
        elif death in self._waiting:
            self._waiting[death].append(pending)
        else:
            self._waiting[death] = [pending]
            task = asyncio.create_task(self._hear(death))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Wait no longer."""
        for task in self._tasks:
            task.cancel()
        for death in list(self._waiting):
            self._tell(death, None)

    async def _hear(self, death: Death) -> None:
        end: End | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT_S):
                while (end := death.noted()) is None:  # noqa: ASYNC110 - a file has no event
                    await asyncio.sleep(_POLL_S)
        self._tell(death, end)

    def _tell(self, death: Death, end: End | None) -> None:
        for pending in self._waiting.pop(death, ()):
            self._end(pending, crashed(pending, end))


def crashed(pending: Pending, end: End | None) -> SalverError:
    """Return what a caller is told whose request is not tried again."""
    held = "the worker held this request"
    if pending.quarantined:
        held = "a worker held this request, for the second time; it is not tried again"
    if end is not None and end.memory_limit_bytes:
        return MemoryLimitExceeded(
            f"more memory was needed than the {end.memory_limit_bytes} bytes of --memory-limit, "
            f"and the kernel killed the process while {held}"
        )
    return WorkerCrashed(f"the model's process died while {held}")
