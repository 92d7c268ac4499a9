"""The file in which a process says where it is found, for people and tools on the machine."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from salver.core.errors import StorageFull
from salver.core.presence import announce, withdraw
from salver.observe.logs import get_logger

log = get_logger(__name__)

_PAUSE_S = 2.0


class Facts:
    """Component that writes such a file; where there is no room, the process serves without it.

    It is tried again every ``pause_s`` until it is written.
    """

    def __init__(self, path: Path, pause_s: float = _PAUSE_S) -> None:
        self._path = path
        self._pause_s = pause_s
        self._task: asyncio.Task[None] | None = None
        self._descriptor: int | None = None

    def start(self, facts: Mapping[str, object]) -> None:
        """Write the file now or, failing that, later; raises no ``StorageFull``."""
        if not self._wrote(facts):
            self._task = asyncio.create_task(self._write_later(facts))

    async def stop(self) -> None:
        """Try no more, and take back what was said."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._descriptor is not None:
            withdraw(self._path, self._descriptor)
            self._descriptor = None

    def _wrote(self, facts: Mapping[str, object]) -> bool:
        try:
            self._descriptor = announce(self._path, facts)
        except StorageFull as error:
            log.warning("facts_not_written", path=str(self._path), cause=error.message)
            return False
        return True

    async def _write_later(self, facts: Mapping[str, object]) -> None:
        while True:
            await asyncio.sleep(self._pause_s)
            if self._wrote(facts):
                return
