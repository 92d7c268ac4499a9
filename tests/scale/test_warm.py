"""Processes that a zygote forks: what they share, what they must not, and whose they are."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from salver.core.clock import SystemClock
from salver.core.settings import SupervisorSettings
from salver.scale.local.orphans import Orphans, children
from salver.scale.local.process import Child
from salver.scale.local.start import Command
from salver.scale.local.warm import ForkedProcess, WarmPool
from tests.scale.loop import in_loop

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
WAIT_S = 30.0


class Pool:
    """A pool with its zygote."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.warm = WarmPool(count, folder, "onnx", ENVIRONMENT)
        self.zygote = Child(
            self.warm.provision(), folder, SupervisorSettings(), SystemClock(), lambda: None
        )
        self.warm.zygote_pid = lambda: self.zygote.pid

    async def full(self, count: int) -> set[int]:
        """Wait until so many processes were forked, and return them."""
        await until(lambda: len(self.warm.pids) == count)
        return self.warm.pids

    async def start(self, environment: dict[str, str], door: int | None = None) -> object:
        """Start a worker that has no plan to follow."""
        home = str(self.folder)
        command = Command(
            "own", "worker", "salver.engine", ("--home", home, "--id", "own"), (), environment, door
        )
        with (self.folder / "own.log").open("ab") as log:
            return await self.warm.start_process(command, log.fileno())


async def until(condition: object) -> None:
    """Wait for something that happens on its own."""
    assert callable(condition)
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def pool(count: int = 1) -> AsyncIterator[Pool]:
    """Give a running pool of so many processes; nothing is left afterwards.

    What a failed test began is killed: nobody else ends it, and waiting would hide the failure.
    """
    orphans = Orphans(set)
    orphans.provision()
    with tempfile.TemporaryDirectory(prefix="warm-") as name:
        folder = Path(name)
        (folder / "run").mkdir()
        running = Pool(folder, count)
        running.zygote.start()
        running.warm.start()
        try:
            yield running
        except BaseException:
            for pid in running.warm.pids:
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            running.warm.stop()
            await running.zygote.stop(5.0)
            await until(lambda: not running.warm.pids)


def status(pid: int, field: str) -> str:
    """Return one field of a process's status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{field}:"))


def catches(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process does something of its own at a signal."""
    return bool(int(status(pid, "SigCgt"), 16) >> (number - 1) & 1)


def open_files(pid: int) -> set[str]:
    """Return what a process has open; it may close things meanwhile."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(link.readlink()))
    return found


def title_of(pid: int) -> list[str]:
    """Return the words that ``ps`` shows of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@in_loop
async def test_what_is_forked_belongs_to_the_supervisor_and_runs_one_thread() -> None:
    """Each is this process's child, leads a session of its own, and has nothing open besides."""
    async with pool(2) as running:
        for pid in await running.full(2):
            assert int(status(pid, "PPid")) == os.getpid()
            assert int(status(pid, "Threads")) == 1
            assert os.getsid(pid) == pid
            links = open_files(pid)
            assert sum(link.startswith("socket:") for link in links) == 1
            assert len(links) <= 4
        assert running.zygote.pid is not None
        assert int(status(running.zygote.pid, "Threads")) == 1


@in_loop
async def test_a_worker_becomes_what_it_is_told() -> None:
    """A warm process takes over arguments, log and door, and the pool is filled again."""
    async with pool() as running:
        (waiting,) = await running.full(1)
        path = running.folder / "run" / "own.sock"
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(path))
            door.listen()
            process = await running.start(ENVIRONMENT, door.fileno())
            assert isinstance(process, ForkedProcess)
            assert process.pid == waiting
            title = ("-m", "salver.engine", "--home", str(running.folder), "--id", "own")
            await until(lambda: tuple(title_of(waiting)[1:7]) == title)
            assert any(name.endswith("own.log") for name in open_files(waiting))
            await running.full(2)
            await until(lambda: catches(waiting, signal.SIGTERM))
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


@in_loop
async def test_one_taken_the_moment_it_is_there_is_replaced() -> None:
    """The pool is filled again though the task that brought the process is not over yet."""
    async with pool() as running:
        while not running.warm.pids:  # noqa: ASYNC110 - it must not be a turn late
            await asyncio.sleep(0)
        assert isinstance(await running.start(ENVIRONMENT), ForkedProcess)
        for pid in await running.full(2):
            os.kill(pid, signal.SIGKILL)


@in_loop
async def test_a_pool_whose_process_died_unseen_is_filled_again() -> None:
    """A worker is started anew then, and the next one finds a warm process."""
    async with pool() as running:
        (waiting,) = await running.full(1)
        os.kill(waiting, signal.SIGKILL)
        # It is dead, but this loop has not had a turn to notice.
        os.waitid(os.P_PID, waiting, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - so it has none
        process = await running.start(ENVIRONMENT)
        assert isinstance(process, asyncio.subprocess.Process)
        process.kill()
        await process.wait()
        await until(lambda: running.warm.pids and running.warm.pids != {waiting})


@in_loop
async def test_a_pool_that_gets_no_link_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where descriptors are short it does not try at once again and again."""
    tries: list[int] = []

    def refuse() -> tuple[socket.socket, socket.socket]:
        tries.append(1)
        raise OSError(errno.EMFILE, "too many open files")

    async with pool() as running:
        await running.full(1)
        with monkeypatch.context() as short:
            short.setattr("salver.scale.local.warm.pair", refuse)
            process = await running.start(ENVIRONMENT)
            for _ in range(100):
                await asyncio.sleep(0.001)
            assert len(tries) == 1
        process.kill()  # type: ignore[attr-defined]
        await until(lambda: len(running.warm.pids) == 1 and running.warm.pids != {process.pid})  # type: ignore[attr-defined]


@in_loop
async def test_other_threads_take_another_process() -> None:
    """A worker whose environment is not the zygote's is started anew, with that environment."""
    async with pool() as running:
        (waiting,) = await running.full(1)
        process = await running.start({**ENVIRONMENT, "OMP_NUM_THREADS": "2"})
        assert not isinstance(process, ForkedProcess)
        assert isinstance(process, asyncio.subprocess.Process)
        environment = Path(f"/proc/{process.pid}/environ")
        await until(lambda: b"OMP_NUM_THREADS=2" in environment.read_bytes())
        assert running.warm.pids == {waiting}
        process.kill()
        assert await process.wait() == -signal.SIGKILL


@in_loop
async def test_a_killed_process_is_replaced_and_its_end_is_known() -> None:
    """kill -9 of one that waits brings another; kill -9 of a worker is told as such."""
    async with pool() as running:
        (waiting,) = await running.full(1)
        os.kill(waiting, signal.SIGKILL)
        await until(lambda: running.warm.pids and running.warm.pids != {waiting})
        process = await running.start(ENVIRONMENT)
        assert isinstance(process, ForkedProcess)
        process.kill()
        assert await process.wait() == -signal.SIGKILL


@in_loop
async def test_without_a_zygote_workers_start_anew() -> None:
    """A zygote that is stopped for good keeps nobody waiting for it."""
    async with pool() as running:
        (waiting,) = await running.full(1)
        await running.zygote.stop(5.0)
        os.kill(waiting, signal.SIGKILL)
        await until(lambda: not running.warm.pids)
        process = await running.start(ENVIRONMENT)
        assert isinstance(process, asyncio.subprocess.Process)
        process.kill()
        await process.wait()


@in_loop
async def test_orphans_that_end_are_buried() -> None:
    """A grandchild whose parent died first leaves no zombie, others' children are let be."""
    before = children()
    mine = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
    orphans = Orphans(lambda: {mine.pid})
    orphans.provision()
    script = "import os, time\nif os.fork() == 0:\n    time.sleep(0.2)\nelse:\n    os._exit(0)"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    await parent.wait()
    (orphan,) = children() - before - {mine.pid, parent.pid}
    await until(lambda: status(orphan, "State").startswith("Z"))
    orphans.bury()
    orphans.bury()
    assert orphan not in children()
    assert await mine.wait() == 0
