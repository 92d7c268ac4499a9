"""What the supervisor does by itself: with real workers, and without control."""

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from salver.core.clock import SystemClock
from salver.core.settings import Settings, SupervisorSettings
from salver.scale.local.later import Later
from salver.scale.local.supervisor import Supervisor, UpOptions
from salver.scale.local.table import Table
from salver.wire.copies import Copies
from salver.wire.messages import Plan, WorkerPlan
from salver.wire.transport import connect
from tests.scale.loop import in_loop
from tests.scale.test_activation import HELLO, Listening
from tests.wire.test_copies import holder, left


@contextlib.asynccontextmanager
async def supervised(stop_timeout_s: float = 1.0) -> AsyncIterator[tuple[Supervisor, Path]]:
    """Give a supervisor that has neither ports nor gateways, and its home."""
    with tempfile.TemporaryDirectory(prefix="up-") as name:
        home = Path(name)
        for folder in ("run", "logs"):
            (home / folder).mkdir()
        options = UpOptions(home, "127.0.0.1", 0, None, 0, 0, None, allow_anonymous=False)
        settings = Settings(supervisor=SupervisorSettings(stop_timeout_s=stop_timeout_s))
        supervisor = Supervisor(options, settings, SystemClock(), "one")
        try:
            yield supervisor, home
        finally:
            await supervisor.stop()


def lives(pid: int) -> bool:
    """Tell whether a process is there."""
    return Path(f"/proc/{pid}").exists()


def plan_of(*workers: WorkerPlan) -> Plan:
    """Return a plan with these workers."""
    return Plan(number=1, created_unix_ms=0, endpoints=(), workers=workers)


async def row_of(home: Path, identity: str) -> dict[str, Any]:
    """Return what is written down of a process that runs, when there is one."""
    table = home / "run" / "processes.json"
    async with asyncio.timeout(60):
        while True:
            rows = json.loads(table.read_text())["processes"] if table.exists() else []
            found: list[dict[str, Any]] = [row for row in rows if row["identity"] == identity]
            if found and found[0]["pid"] is not None:
                return found[0]
            await asyncio.sleep(0.01)


@in_loop
async def test_what_fails_is_tried_until_it_works_and_said_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """However often that takes; its end is said, too."""
    tries, done = 0, asyncio.Event()

    def again() -> None:
        nonlocal tries
        tries += 1
        if tries < 5:
            later.failed("it", f"no room for it, {tries}")
        else:
            later.worked("it")
            done.set()

    later = Later(again, pause_s=0.01)
    later.worked("it")
    again()
    async with asyncio.timeout(30):
        await done.wait()
    later.stop()
    lines = capfd.readouterr().err.splitlines()
    assert [line.removeprefix("salver: ") for line in lines] == [
        "no room for it, 1; tried again every 0.01 s",
        "it: works again",
    ]


@in_loop
async def test_a_door_that_cannot_be_opened_is_tried_again(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without another plan, since nobody makes one for that."""
    async with supervised() as (supervisor, home):
        place = home / "later"
        supervisor.apply(plan_of(WorkerPlan("m-1", "dedicated", f"unix:{place}/w.sock")))
        place.mkdir()
        assert (await row_of(home, "m-1"))["state"] == "running"
    told = capfd.readouterr().err
    assert told.count("m-1 cannot be reached: ") == told.count("m-1: works again") == 1


@pytest.mark.parametrize("is_hurried", [False, True])
@in_loop
async def test_workers_that_are_leaving_are_waited_for(*, is_hurried: bool) -> None:
    """Neither is one left behind when the server stops, nor left out when that has to be quick."""
    async with supervised(3600.0 if is_hurried else 1.0) as (supervisor, home):
        supervisor.apply(plan_of(WorkerPlan("m-1", "dedicated", f"unix:{home}/run/w.sock")))
        pid = (await row_of(home, "m-1"))["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            supervisor.apply(plan_of())
            if is_hurried:
                # The worker is asked to stop first, as by the first Ctrl-C.
                asyncio.get_running_loop().call_later(0.1, supervisor.hurry)
            async with asyncio.timeout(60):
                await supervisor.stop()
            assert not lives(pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@in_loop
async def test_a_table_without_room_is_written_later(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """That is said once, not at every try, and once more when there was room."""
    path = tmp_path / "processes.json"
    asked = 0

    def told() -> object:
        nonlocal asked
        asked += 1
        if asked == 3:
            blocking.rmdir()
        return {"asked": asked}

    blocking = path.with_suffix(".tmp")
    blocking.mkdir()
    table = Table(path, told)
    table.write()
    async with asyncio.timeout(60):
        while not path.exists():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
    table.stop()
    assert json.loads(path.read_text()) == {"asked": 3}
    said = capfd.readouterr().err
    assert said.count("not written: ") == said.count("processes.json: works again") == 1


@in_loop
async def test_a_plan_that_comes_while_it_stops_starts_nobody() -> None:
    """Nobody would stop that worker any more."""
    async with supervised() as (supervisor, home):
        stopping = asyncio.create_task(supervisor.stop())
        await asyncio.sleep(0)
        supervisor.apply(plan_of(WorkerPlan("m-1", "dedicated", f"unix:{home}/run/w.sock")))
        await stopping
        assert not (home / "run" / "w.sock").exists()
        assert supervisor._everybody() == []


@in_loop
async def test_a_quarantine_may_come_to_run_on_demand() -> None:
    """One that then leaves in good order sleeps; that is no restart."""
    async with supervised() as (supervisor, home):
        worker = WorkerPlan("quarantine-m-1", "quarantine", f"unix:{home}/run/w.sock")
        supervisor.apply(plan_of(worker))
        pid = (await row_of(home, worker.id))["pid"]
        # Who greets has its signal handlers.
        (await connect(worker.address, HELLO, lambda _: Listening(), 60.0)).close()
        supervisor.apply(plan_of(msgspec.structs.replace(worker, on_demand=True)))
        os.kill(pid, signal.SIGTERM)
        child = supervisor._children[worker.id]
        async with asyncio.timeout(60):
            while child.pid is not None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        assert (child.state, child.restarts) == ("asleep", 0)


@in_loop
async def test_copies_of_a_server_that_was_killed_are_removed() -> None:
    """Also those of workers that no plan knows any more; whoever is still there keeps its own."""
    async with supervised() as (supervisor, home):
        gone = Copies(home / "run", "dedicated-m-1-0", "gone").folder
        gone.mkdir(parents=True)
        with holder(home / "run", "lives"):
            supervisor.provision()
            assert supervisor._control is not None
            supervisor._control.close()
            assert not gone.parent.exists()
            assert left(home / "run") == {"lives", "lives.lock"}


@in_loop
async def test_only_restarts_outlive_a_worker() -> None:
    """Ids are new all the time, so that one that never failed is forgotten with its worker."""
    async with supervised() as (supervisor, home):
        workers = [
            WorkerPlan(f"m-{n}", "dedicated", f"unix:{home}/run/{n}.sock", on_demand=True)
            for n in range(3)
        ]
        supervisor.apply(plan_of(*workers))
        supervisor._children["m-1"].restarts = 2
        supervisor.apply(plan_of())
        counts = {one.labels[0]: one.value for one in supervisor.snapshot().counters}
        assert {n: v for n, v in counts.items() if n.startswith("m-")} == {"m-1": 2.0}
