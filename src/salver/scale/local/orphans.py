"""Adopts the descendants whose parents died, and buries those that nobody else waits for."""

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_INTERVAL_S = 2.0
_libc = ctypes.CDLL(None, use_errno=True)


class Orphans:
    """Component that makes this process the parent of all its descendants that lose theirs.

    ``waited_for`` are the children that somebody else waits for.
    """

    def __init__(self, waited_for: Callable[[], set[int]]) -> None:
        self._waited_for = waited_for
        self._suspects: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    def provision(self) -> None:
        """Adopt from now on."""
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self) -> None:
        """Bury now and then."""
        self._task = asyncio.create_task(self._bury_for_ever())

    async def stop(self) -> None:
        """Bury no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def bury(self) -> None:
        """Bury the dead that were nobody's at the last call, too.

        One that has just been started may not be known yet to who will wait for it.
        """
        strangers = children() - self._waited_for()
        for pid in strangers & self._suspects:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._suspects = strangers

    async def _bury_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self.bury()


def children() -> set[int]:
    """Return the children of this process; none where the system does not tell."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError, ValueError):
            found |= {int(word) for word in (task / "children").read_text().split()}
    return found
