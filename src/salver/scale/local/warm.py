"""A few processes that have imported what workers need, for workers that must start quickly."""

import asyncio
import contextlib
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

from salver.core.errors import WireError
from salver.scale.local.start import Command, Process, start_anew
from salver.wire.fork import Begin, Born, Fork, hear, pair, tell

_WAIT_S = 0.5
_REFILL_PAUSE_S = 1.0
_ROOM = "." * 400
_WORKER_MODULE = "salver.engine"


class ForkedProcess:
    """A child that the supervisor has not started itself; see ``start.Process``.

    ``ended`` is called once.
    """

    def __init__(self, pid: int, ended: Callable[["ForkedProcess"], None]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended
        self._descriptor = -1
        self._over = asyncio.Event()

    def start(self) -> None:
        """Watch it; raises ``OSError`` for a process that is no child of this one."""
        self._descriptor = os.pidfd_open(self.pid)
        try:
            self._look()
        except OSError:
            os.close(self._descriptor)
            raise
        if self.returncode is None:
            asyncio.get_running_loop().add_reader(self._descriptor, self._look)

    async def wait(self) -> int:
        """Return its ``returncode`` when it has ended."""
        await self._over.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, signal_number: int, /) -> None:
        """Signal it; raises ``ProcessLookupError`` when it is gone."""
        if self.returncode is not None:
            raise ProcessLookupError(self.pid)
        signal.pidfd_send_signal(self._descriptor, signal_number)

    def kill(self) -> None:
        """End it at once; raises ``ProcessLookupError`` when it is gone."""
        self.send_signal(signal.SIGKILL)

    def _look(self) -> None:
        found = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
        if found is None:
            return
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        exited = found.si_code == os.CLD_EXITED
        self.returncode = found.si_status if exited else -found.si_status
        self._over.set()
        self._ended(self)


class WarmPool:
    """Component that keeps ``count`` forked processes waiting; ``zygote`` is who forks them.

    ``start_process`` starts a worker in one of them, or anew where none is there in time, or where
    the worker needs another environment than the zygote has. ``zygote_pid`` is to be set to what
    tells the zygote's present number.
    """

    def __init__(self, count: int, home: Path, runtimes: str, environment: dict[str, str]) -> None:
        self._count = count
        self._environment = environment
        self._arguments = ("--runtimes", runtimes, "--home", str(home), "--room", _ROOM)
        self._idle: deque[tuple[ForkedProcess, socket.socket]] = deque()
        self._coming: set[asyncio.Task[None]] = set()
        self._forked: dict[int, ForkedProcess] = {}
        self._changed = asyncio.Event()
        self._served_by: int | None = None
        self.zygote_pid: Callable[[], int | None] = lambda: None
        self._link: socket.socket | None = None
        self._far: socket.socket | None = None
        self._stopping = False

    def provision(self) -> Command:
        """Return how the zygote is started; it and its successors share one link."""
        self._link, self._far = pair()
        self._link.setblocking(False)
        descriptor = self._far.fileno()
        return Command(
            "zygote",
            "zygote",
            "salver.engine.zygote",
            ("--fd", str(descriptor), *self._arguments),
            (descriptor,),
            self._environment,
        )

    def start(self) -> None:
        """Begin to fill the pool."""
        self._refill()

    def stop(self) -> None:
        """Let the waiting processes end."""
        self._stopping = True
        for task in self._coming:
            task.cancel()
        for _, link in self._idle:
            link.close()
        self._idle.clear()
        for end in (self._link, self._far):
            if end is not None:
                end.close()

    @property
    def pids(self) -> set[int]:
        """The processes that were forked for this pool and have not ended."""
        return set(self._forked)

    async def start_process(self, command: Command, log: int) -> Process:
        """Start a worker, warm if possible; see ``start.Start``."""
        if command.module == _WORKER_MODULE and command.environment == self._environment:
            process = await self._begin(command, log)
            if process is not None:
                return process
        return await start_anew(command, log)

    async def _begin(self, command: Command, log: int) -> ForkedProcess | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WAIT_S):
                while not self._idle and self._coming and self._is_served:
                    self._changed.clear()
                    await self._changed.wait()
        while self._idle:
            process, link = self._idle.popleft()
            door = () if command.door is None else (command.door,)
            try:
                tell(link, Begin(command.grouped), (log, *door))
            except OSError:
                continue
            finally:
                link.close()
                self._refill()
            return process
        return None

    @property
    def _is_served(self) -> bool:
        """Tell whether the zygote that runs now has forked something."""
        return self._served_by is not None and self._served_by == self.zygote_pid()

    def _refill(self) -> None:
        """Ask for as many processes as are missing."""
        while not self._stopping and len(self._idle) + len(self._coming) < self._count:
            task = asyncio.create_task(self._fork())
            self._coming.add(task)
            task.add_done_callback(self._came)

    def _came(self, task: asyncio.Task[None]) -> None:
        self._coming.discard(task)
        self._changed.set()
        # Its process may have been taken, and this task counted as coming, before this was called.
        self._refill()

    async def _fork(self) -> None:
        """Have one process forked, and keep it when it says that it is there."""
        try:
            self._idle.append(await self._pair())
        except (OSError, WireError):
            # The zygote is restarted with pauses; asking it again at once would fill its link.
            await asyncio.sleep(_REFILL_PAUSE_S)

    async def _pair(self) -> tuple[ForkedProcess, socket.socket]:
        """Return a process that waits, and the link to it; raises ``WireError`` or ``OSError``."""
        near, far = pair()
        try:
            return await self._born(near, far), near
        except BaseException:
            near.close()
            raise

    async def _born(self, near: socket.socket, far: socket.socket) -> ForkedProcess:
        """Return the process that waits at ``far``; raises ``WireError`` or ``OSError``."""
        assert self._link is not None
        near.setblocking(False)
        with far:
            tell(self._link, Fork(os.getpid()), (far.fileno(),))
        loop, answered = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(near, answered.set)
        try:
            await answered.wait()
        finally:
            loop.remove_reader(near)
        heard = hear(near)
        if heard is None or not isinstance(heard[0], Born):
            raise WireError("the zygote ended while it forked")
        process = ForkedProcess(heard[0].pid, self._ended)
        self._forked[process.pid] = process
        try:
            process.start()
        except OSError:
            del self._forked[process.pid]
            raise
        if process.returncode is not None:
            raise WireError("the forked process has ended already")
        self._served_by = self.zygote_pid()
        return process

    def _ended(self, process: ForkedProcess) -> None:
        self._forked.pop(process.pid, None)
        for place, (idle, link) in enumerate(self._idle):
            if idle is process:
                del self._idle[place]
                link.close()
                asyncio.get_running_loop().call_later(_REFILL_PAUSE_S, self._refill)
                return
