"""Runs a module in a throw-away process, which may end however it likes."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

_TAIL_BYTES = 600
_LAST_WORDS_S = 1.0


async def run_apart(
    module: str,
    arguments: Sequence[str],
    folder: str | None,
    environment: Mapping[str, str],
    timeout_s: float,
) -> tuple[int, bytes]:
    """Return the child's status and its last words; what it started ends with it.

    It runs in ``folder``, or where this process does. Raises ``TimeoutError`` when it took too
    long, and ``OSError`` where it cannot be started. Its errors come through a pipe of our own: a
    process that it leaves behind may hold the other end, which must not keep anybody waiting.
    """
    read_end, write_end = os.pipe()
    words = _LastWords()
    try:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: words, os.fdopen(read_end, "rb", 0)
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            cwd=folder,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=write_end,
            start_new_session=True,
        )
    finally:
        os.close(write_end)
    try:
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(words.over.wait(), _LAST_WORDS_S)
        transport.close()
    return status, words.kept


class _LastWords(asyncio.Protocol):
    """Keeps the end of what comes, however much it is."""

    def __init__(self) -> None:
        self.kept = b""
        self.over = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Keep the last bytes."""
        self.kept = (self.kept + data)[-_TAIL_BYTES:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nobody can write any more."""
        del exc
        self.over.set()
