"""Who kills processes that live but do nothing any more, with real processes."""

import asyncio
import contextlib
import os
import resource
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from salver.core.clock import SystemClock
from salver.core.settings import EngineSettings, HttpSettings, Settings, SupervisorSettings
from salver.scale.local.lifeguard import Lifeguard
from salver.scale.local.process import Child
from salver.scale.local.start import Command
from salver.wire.pulse import Beat, expect, read
from tests.scale.loop import in_loop

CLOCK = SystemClock()
SETTINGS = SupervisorSettings(backoff_initial_s=0.02, backoff_max_s=0.1, stop_timeout_s=5.0)
S_NS = 1_000_000_000


class FixedClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_ns = CLOCK.monotonic_ns()

    def monotonic_ns(self) -> int:
        """Return the time that was set."""
        return self.now_ns

    def unix_ns(self) -> int:
        """Return the same."""
        return self.now_ns


@contextlib.asynccontextmanager
async def guarded(role: str) -> AsyncIterator[tuple[Child, Lifeguard, FixedClock, Path]]:
    """Give a running child that does not end by itself, who looks at it, their clock and folder."""
    with tempfile.TemporaryDirectory(prefix="guard-") as folder:
        path, clock = Path(folder), FixedClock()
        command = Command("own-0", role, "tests.scale.sleeper", ())
        child = Child(command, path, SETTINGS, CLOCK, lambda: None)
        guard = Lifeguard(path, Settings(), clock, lambda: [child])
        child.start()
        async with asyncio.timeout(30):
            while child.pid is None:  # noqa: ASYNC110 - a process says nothing
                await asyncio.sleep(0.01)
        guard.look()
        try:
            yield child, guard, clock, path
        finally:
            await child.stop(5.0)


def look(guard: Lifeguard, clock: FixedClock, times: int = 1) -> None:
    """Let the guard look so often, half a second apart."""
    for _ in range(times):
        clock.now_ns += S_NS // 2
        guard.look()


def lives(pid: int) -> bool:
    """Tell whether a process is there."""
    return Path(f"/proc/{pid}").exists()


async def ended(pid: int) -> bool:
    """Tell whether a process ends within a while in which nobody else would end it."""
    for _ in range(300):
        if not lives(pid):
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize("role", ["worker", "gateway", "control"])
@in_loop
async def test_a_stopped_process_whose_time_is_over_is_killed(role: str) -> None:
    """SIGSTOP takes every other way to end from a process; the next one takes its place."""
    async with guarded(role) as (child, guard, clock, folder):
        pid = child.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        expect(folder, "own-0", Beat(clock.now_ns, clock.now_ns + S_NS))
        look(guard, clock, 2)
        assert lives(pid)
        look(guard, clock, 2)
        assert await ended(pid)
        async with asyncio.timeout(30):
            while child.pid in (None, pid):  # noqa: ASYNC110 - a process says nothing
                await asyncio.sleep(0.01)
        assert child.restarts == 1


@in_loop
async def test_who_keeps_its_promise_or_made_none_lives() -> None:
    """A sign of life between two looks is enough; without a note nobody is judged."""
    async with guarded("worker") as (child, guard, clock, folder):
        pid = child.pid
        assert pid is not None
        look(guard, clock, 3)
        for _ in range(5):
            expect(folder, "own-0", Beat(clock.now_ns, clock.now_ns + S_NS // 4))
            look(guard, clock)
        assert not await ended(pid)


@in_loop
async def test_who_was_away_itself_judges_nobody() -> None:
    """After a pause of the whole machine all notes are old, and each worker has another chance."""
    async with guarded("worker") as (child, guard, clock, folder):
        pid = child.pid
        assert pid is not None
        expect(folder, "own-0", Beat(clock.now_ns, clock.now_ns + S_NS // 4))
        look(guard, clock)
        clock.now_ns += 60 * S_NS
        guard.look()
        assert not await ended(pid)
        look(guard, clock)
        assert await ended(pid)


@in_loop
async def test_everybody_has_its_whole_time_after_a_pause() -> None:
    """Where the machine stood still, others may be back later than who looks at them."""
    async with guarded("control") as (child, guard, clock, folder):
        pid = child.pid
        assert pid is not None
        expect(folder, "own-0", Beat(clock.now_ns, clock.now_ns + 4 * S_NS))
        clock.now_ns += 60 * S_NS
        guard.look()
        look(guard, clock, 8)
        assert not await ended(pid)
        look(guard, clock)
        assert await ended(pid)


@pytest.mark.parametrize(
    ("role", "expected_s"),
    [("worker", 200.0), ("gateway", 150.0), ("control", 120.0)],
    ids=["a load may take as long", "its own limit", "longer than any start"],
)
def test_a_start_has_time(tmp_path: Path, role: str, expected_s: float) -> None:
    """Who starts is not killed before its settings and a slow machine's start allow it."""
    settings = Settings(
        http=HttpSettings(unresponsive_s=150.0), engine=EngineSettings(load_timeout_s=200.0)
    )
    guard = Lifeguard(tmp_path, settings, CLOCK, list)
    guard.expect(Command("own-0", role, "tests.scale.sleeper", ()))
    beat = read(tmp_path, "own-0")
    assert beat is not None
    assert beat.due_ns - beat.beaten_ns == expected_s * S_NS


@pytest.mark.parametrize("role", ["gateway", "zygote"])
def test_nothing_is_expected_of_who_is_not_watched(tmp_path: Path, role: str) -> None:
    """With a limit of 0, or none, the note of an earlier process judges nobody."""
    settings = Settings(http=HttpSettings(unresponsive_s=0.0))
    expect(tmp_path, "own-0", Beat(1, 2))
    guard = Lifeguard(tmp_path, settings, CLOCK, list)
    guard.expect(Command("own-0", role, "tests.scale.sleeper", ()))
    assert read(tmp_path, "own-0") is None


def test_without_room_for_a_note_the_old_one_is_gone(tmp_path: Path) -> None:
    """That of a process that was killed is overdue, and would have the next one killed as well."""
    expect(tmp_path, "own-0", Beat(1, 2))
    guard = Lifeguard(tmp_path, Settings(), CLOCK, list)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        guard.expect(Command("own-0", "gateway", "tests.scale.sleeper", ()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read(tmp_path, "own-0") is None
