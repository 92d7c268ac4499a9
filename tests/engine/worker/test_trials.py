"""Loads that are blamed for ends of a shared worker are tried in a process of their own."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop
from msgspec.structs import replace as changed

from salver.core.settings import EngineSettings
from salver.core.signature import Signature
from salver.engine.worker.attempts import Attempts as Blame
from salver.engine.worker.attempts import key_of
from salver.engine.worker.host import BatchHost
from salver.engine.worker.loading import Loading
from salver.observe.meter import Meter
from salver.wire.attempts import Attempts, read, write
from salver.wire.messages import Load, Plan
from tests.engine.fleet import CLOCK, Fleet, Model, client_of, finish, until
from tests.engine.worker.test_app import last
from tests.engine.worker.test_attempts import ENVIRONMENT, WORKER, Watched, watched

SLOW = Model("slow:1", content=b"slow")
HUNG = Model("hung:1", "ballast", b"8 3600 0")


def blame(fleet: Fleet, model: Model) -> str:
    """Have two processes of a worker that is not started yet be ended by a load."""
    loads = [load for worker in fleet.plan.workers for load in worker.loads if not load.lazy]
    (key,) = {key_of(load) for load in loads if load.variant == model.variant}
    write(fleet.home / "run", WORKER, Attempts(ends={key: 2}))
    return key


def with_loads(plan: Plan, change: Callable[[Load], Load]) -> Plan:
    """Return a plan as control would make it with other options, its lazy loads as they are."""
    workers = tuple(
        changed(worker, loads=tuple(load if load.lazy else change(load) for load in worker.loads))
        for worker in plan.workers
    )
    return changed(plan, workers=workers)


def trials(pid: int) -> list[psutil.Process]:
    """Return the trials of a process that is there."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children()
    return []


@contextlib.asynccontextmanager
async def watched_while_blamed(
    model: Model, environment: dict[str, str] = ENVIRONMENT
) -> AsyncIterator[tuple[Watched, str]]:
    """Keep a worker alive that has this model, blamed for two ends, and another one."""
    keys: list[str] = []
    async with watched(
        model,
        Model(),
        environment={**ENVIRONMENT, **environment},
        prepare=lambda fleet: keys.append(blame(fleet, model)),
    ) as one:
        yield one, keys[0]


@pytest.mark.parametrize("budget", [{}, {"SALVER_ENGINE__MEMORY_BUDGET_BYTES": str(1 << 34)}])
def test_one_that_was_blamed_by_mistake_serves(budget: dict[str, str]) -> None:
    """A good model loads alone as its process is killed, twice; it loads apart, and then here.

    Nothing is left of that.
    """

    async def run() -> None:
        async with watched(SLOW, Model(), environment={**ENVIRONMENT, **budget}) as one:
            run_folder = one.fleet.home / "run"
            loads = one.fleet.plan.workers[0].loads
            key = next(key_of(load) for load in loads if load.variant == SLOW.variant)
            for count in range(2):
                await until(lambda count=count: is_alone(run_folder, key, count))  # type: ignore[misc]
                one.fleet.kill(WORKER)
            await until(lambda: one.states == {"slow:1": "ready", "affine:1": "ready"})
            assert one.fleet.starts[WORKER] == 3
            assert read(run_folder, WORKER) == Attempts()
            assert not list(run_folder.glob("models/*/*/trial"))

    uvloop.run(run())


def is_alone(folder: Path, key: str, count: int) -> bool:
    """Tell whether nothing else loads than what has ended so many processes."""
    found = read(folder, WORKER)
    return tuple(found.going_on) == (key,) and found.ends.get(key, 0) == count


def test_it_is_acquitted_once() -> None:
    """If the worker ends of it all the same it has failed, and no more processes end."""

    async def run() -> None:
        async with watched_while_blamed(SLOW) as (one, key):
            run_folder = one.fleet.home / "run"
            await until(lambda: is_alone(run_folder, key, 2))
            one.fleet.kill(WORKER)
            await until(lambda: one.states == {"slow:1": "failed", "affine:1": "ready"})
            assert "3 processes of worker shared-0" in one.state("slow:1").error
            assert one.fleet.starts[WORKER] == 2
            assert not trials(one.fleet.processes[WORKER].pid)

    uvloop.run(run())


def test_a_trial_has_the_time_of_a_load_and_keeps_nobody_waiting() -> None:
    """What hangs is ended and has failed; meanwhile others are loaded and asked."""

    async def run() -> None:
        environment = {"SALVER_ENGINE__LOAD_TIMEOUT_S": "3"}
        async with watched_while_blamed(HUNG, environment) as (one, _):
            await until(lambda: one.states == {"hung:1": "loading", "affine:1": "ready"})
            await until(lambda: len(trials(one.fleet.processes[WORKER].pid)) == 1)
            one.fleet.models = (Model(),)
            async with client_of(one.fleet) as callers:
                await finish([callers.ask(1.0)])
            await until(lambda: one.states["hung:1"] == "failed")
            assert "one that did nothing else was not done after 3 s" in one.state("hung:1").error
            assert not trials(one.fleet.processes[WORKER].pid)
            assert not list((one.fleet.home / "run").glob("models/*/*/trial"))

    uvloop.run(run())


def test_a_version_that_is_not_wanted_any_more_has_no_trial() -> None:
    """It ends with the plan; the version that comes back is no suspect."""

    async def run() -> None:
        async with watched_while_blamed(HUNG) as (one, key):
            pid = one.fleet.processes[WORKER].pid
            await until(lambda: len(trials(pid)) == 1)
            one.push(one.fleet.write((Model(),), 2))
            await until(lambda: one.states == {"affine:1": "ready"} and not trials(pid))
            one.push(one.fleet.write((HUNG, Model()), 3))
            await until(lambda: tuple(read(one.fleet.home / "run", WORKER).going_on) == (key,))
            assert not trials(pid)

    uvloop.run(run())


def test_a_plan_that_lets_it_leave_when_idle_does_not_end_its_trial() -> None:
    """No request has it loaded before the trial is over."""

    async def run() -> None:
        async with watched_while_blamed(HUNG) as (one, _):
            pid = one.fleet.processes[WORKER].pid
            await until(lambda: len(trials(pid)) == 1)
            plan = one.fleet.write((HUNG, Model()), 2)
            one.push(with_loads(plan, lambda load: changed(load, idle_s=600.0)))
            await until(lambda: _plan_number(one) == 2)
            assert one.states["hung:1"] == "loading"
            assert len(trials(pid)) == 1

    uvloop.run(run())


def _plan_number(one: Watched) -> int:
    snapshot = last(one.inbox)
    return snapshot.plan if snapshot is not None else 0


def on_two_threads(load: Load) -> Load:
    """Change how the blamed version is run, and no other."""
    is_other = load.variant != SLOW.variant
    return load if is_other else changed(load, execution=changed(load.execution, threads=2))


def test_an_acquitted_load_goes_on_when_its_execution_changes() -> None:
    """It is not loaded twice at once, of which both would use the same folder."""
    together: list[int] = []

    async def run() -> None:
        async with watched_while_blamed(SLOW) as (one, key):
            run_folder = one.fleet.home / "run"
            await until(lambda: is_alone(run_folder, key, 2))
            plan = one.fleet.write((SLOW, Model()), 2)
            one.push(with_loads(plan, on_two_threads))

            def is_renewed() -> bool:
                together.append(len(read(run_folder, WORKER).going_on))
                tried = one.state("slow:1").execution
                ready = one.states == {"slow:1": "ready", "affine:1": "ready"}
                return ready and tried is not None and tried.threads == 2

            await until(is_renewed)
            assert max(together) == 1
            assert one.fleet.starts[WORKER] == 1

    uvloop.run(run())


def test_a_trial_that_could_not_be_had_tells_nothing(tmp_path: Path) -> None:
    """There is another one later, and no later process takes it for one more end."""
    asked: list[str] = []

    async def apart(load: Load, settings: EngineSettings) -> str:
        del settings
        asked.append(load.variant)
        if len(asked) == 1:
            raise BlockingIOError(errno.EAGAIN, "no more processes")
        return ""

    async def run() -> None:
        load = Load("a:1", "a", "affine", (), "local", Signature((), ()))
        loading: Loading[Any] = Loading(load, not_reached, CLOCK, Meter(), lambda: None, 60.0)
        host = BatchHost(loading, EngineSettings(), CLOCK, Meter())
        blamed, acquitted = Attempts(ends={key_of(load): 2}), asyncio.Event()
        write(tmp_path, WORKER, blamed)
        attempts = Blame(tmp_path, WORKER, "", EngineSettings(load_again_s=0.05), apart)
        attempts.start()
        attempts.give_up(host, acquitted.set, is_alone=False)
        await until(lambda: loading.error is not None)
        assert "tried again in 0.05 s" in str(loading.error)
        await asyncio.wait_for(acquitted.wait(), 30)
        assert read(tmp_path, WORKER).ends == blamed.ends
        assert asked == ["a:1", "a:1"]
        await attempts.stop()
        host.close()

    uvloop.run(run())


def not_reached(load: Load) -> Any:
    """Load what is not to be loaded here."""
    raise AssertionError(load.variant)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_trial_outlives_its_worker(number: signal.Signals) -> None:
    """However that ends; and of what the worker has open the trial has nothing."""
    fleet = Fleet((HUNG,), 1, ENVIRONMENT)
    blame(fleet, HUNG)
    door = socket.socket(socket.AF_UNIX)
    door.bind(f"{fleet.home}/run/worker-{WORKER}.sock")
    door.listen()
    command = [sys.executable, "-m", "tests.engine.worker_main", "--id", WORKER]
    command += ["--home", str(fleet.home), "--listen-fd", str(door.fileno())]
    worker = subprocess.Popen(
        command, pass_fds=[door.fileno()], stderr=subprocess.DEVNULL, env=os.environ
    )
    fleet.processes[WORKER] = worker

    def has_begun() -> bool:
        # It has copies of its own as soon as it loads.
        return bool(list((fleet.home / "run").glob("models/*/*/trial/models/*/*/*/model.txt")))

    async def run() -> None:
        await until(has_begun)
        (trial,) = trials(worker.pid)
        own = opened_by(trial.pid)
        # Where its errors go, which may be open twice.
        assert len(own) == 1, own
        assert own.pop().startswith("pipe:")
        worker.send_signal(number)
        await until(lambda: worker.poll() is not None and not trial.is_running())

    try:
        uvloop.run(run())
    finally:
        door.close()
        fleet.close()


def opened_by(pid: int) -> set[str]:
    """Return what a trial has open besides the files that it reads and writes."""
    opened = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    own = "/trial/", "/blobs/", "/dev/null"
    return {name for name in opened if not any(part in name for part in own)}
