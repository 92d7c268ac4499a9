"""A child that is kept alive, and which of its ends are told."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from salver.core.clock import SystemClock
from salver.core.settings import SupervisorSettings
from salver.scale.local.process import Child, _last_words
from salver.scale.local.start import Command, Process, start_anew

QUICK = SupervisorSettings(backoff_initial_s=0.02, backoff_max_s=0.05, stop_timeout_s=5.0)


async def _running(child: Child, besides: int | None = None) -> int:
    """Wait for a process of the child, another than this one."""
    async with asyncio.timeout(30):
        while child.pid in (None, besides):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    assert child.pid is not None
    return child.pid


@pytest.mark.parametrize("timeout_s", [5.0, 0.0], ids=["goes by itself", "has to be killed"])
def test_only_ends_that_nobody_asked_for_are_told(tmp_path: Path, timeout_s: float) -> None:
    """A crash is told with its pid; a process that was to stop has not crashed."""
    asyncio.run(_crash_and_stop(tmp_path, timeout_s))


async def _crash_and_stop(folder: Path, timeout_s: float) -> None:
    died: list[int] = []
    command = Command("one", "worker", "tests.scale.sleeper", ())
    child = Child(command, folder, QUICK, SystemClock(), lambda: None)
    child.died = died.append
    child.start()
    try:
        first = await _running(child)
        os.kill(first, signal.SIGKILL)
        second = await _running(child, first)
        assert died == [first]
    finally:
        await child.stop(timeout_s)
    assert second != first
    assert died == [first]


class Refused:
    """Starts processes, but not the first time."""

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error

    async def __call__(self, command: Command, log: int) -> Process:
        """Start a process; raises the error once."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return await start_anew(command, log)


@pytest.mark.parametrize(
    "error",
    [
        BlockingIOError(11, "Resource temporarily unavailable"),
        RuntimeError("can't start new thread"),
        subprocess.SubprocessError("Exception occurred in preexec_fn."),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_keeps_a_process_from_starting_is_tried_again(
    tmp_path: Path, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not only what the system refuses: threads that run out, or what happens after a fork."""
    asyncio.run(_start_at_last(tmp_path, Refused(error)))
    told = str(error) or type(error).__name__
    assert f"one cannot be started: {told}\n" in capfd.readouterr().err


async def _start_at_last(folder: Path, start: Refused) -> None:
    command = Command("one", "worker", "tests.scale.sleeper", ())
    child = Child(command, folder, QUICK, SystemClock(), lambda: None, start)
    child.start()
    try:
        await _running(child)
        assert (child.restarts, child.last_end) == (1, "exit 127")
    finally:
        await child.stop(5.0)


@pytest.mark.parametrize("start", [1, 2])
def test_only_who_cannot_begin_at_first_is_told_of(tmp_path: Path, start: int) -> None:
    """With its own words, not those of a run before; later it has served, and is tried again."""
    (tmp_path / "marks").mkdir()
    (tmp_path / "one.log").write_text("error: an older one [invalid_settings]\n")
    told = asyncio.run(_refusing(tmp_path, start))
    assert told == (["start 1 is of no use"] if start == 1 else [])


def test_the_last_words_are_found_in_a_log_that_was_cut(tmp_path: Path) -> None:
    """What was in it before, and where the process began, counts for nothing any more."""
    log = tmp_path / "one.log"
    log.write_text("error: of no use [invalid_settings]\n")
    assert _last_words(log, 5000) == "of no use"


async def _refusing(folder: Path, start: int) -> list[str]:
    told: list[str] = []
    command = Command("one", "worker", "tests.scale.refusing", (str(folder / "marks"), str(start)))
    child = Child(command, folder, QUICK, SystemClock(), lambda: None)
    child.refused = told.append
    child.start()
    try:
        async with asyncio.timeout(30):
            while child.restarts < start:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        assert child.last_end == f"exit {os.EX_CONFIG}"
    finally:
        await child.stop(5.0)
    return told
