"""Keeps the logs of processes bounded while they run."""

import asyncio
import contextlib
import os
import threading
from pathlib import Path

_INTERVAL_S = 10.0
_MAX_LOG_BYTES = 32 * 1024 * 1024
# A start cuts as well; the slower of two would cut what the other has left.
_trimming = threading.Lock()


class LogTrimmer:
    """Component that cuts the logs in ``folder`` that have become too long."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now and then."""
        self._task = asyncio.create_task(self._trim_for_ever())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _trim_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            with contextlib.suppress(RuntimeError):  # no thread can be had now
                await asyncio.to_thread(trim_all, self._folder)


def trim_all(folder: Path) -> None:
    """Cut every log of a folder that is too long."""
    with contextlib.suppress(OSError):
        for log in folder.glob("*.log"):
            trim(log)


def trim(log: Path) -> None:
    """Empty a log that is being appended to if it is too long; its end becomes the older log.

    What is written while its end is copied is lost. Without room for the older log the newer one
    is emptied all the same.
    """
    with _trimming, contextlib.suppress(OSError):
        size = log.stat().st_size
        if size <= _MAX_LOG_BYTES:
            return
        with contextlib.suppress(OSError), log.open("rb") as source:
            _copy_end(source.fileno(), size, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def _copy_end(source: int, size_bytes: int, older: Path) -> None:
    position = size_bytes - _MAX_LOG_BYTES
    with older.open("wb") as sink:
        while position < size_bytes:
            copied = os.sendfile(sink.fileno(), source, position, size_bytes - position)
            if not copied:
                return
            position += copied
