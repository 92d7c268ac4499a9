"""One child that is kept alive."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from salver.core.clock import Clock
from salver.core.exits import BAD_SETTINGS, PREFIX
from salver.core.settings import SupervisorSettings
from salver.observe.lines import say
from salver.scale.local.groups.process import GroupedProcess
from salver.scale.local.logs import trim
from salver.scale.local.start import Command, Process, Start, start_anew
from salver.wire.ends import OUT_OF_MEMORY

# Much longer than a start takes on a machine that has much else to do.
_BEGINNING_S = 60.0
_LAST_BYTES = 4096
# What a shell says of a command that it cannot start.
_NOT_STARTED = 127


class Child:
    """Component that restarts its process whenever it ends, with growing pauses.

    ``changed`` is called when something of ``state``, ``restarts`` and ``pid`` has changed,
    ``died`` with the pid of a process that ended unasked, and ``refused`` with what the first one
    said if it could not begin with these settings, soon after it was started.
    ``last_end`` tells what the last restart was for, empty before the first.
    """

    def __init__(
        self,
        command: Command,
        logs: Path,
        settings: SupervisorSettings,
        clock: Clock,
        changed: Callable[[], None],
        start_process: Start = start_anew,
    ) -> None:
        self.command = command
        self.state = "starting"
        self.restarts = 0
        self.last_end = ""
        self.pid: int | None = None
        self._log = logs / f"{command.identity}.log"
        self._settings = settings
        self._clock = clock
        self._changed = changed
        self._start_process = start_process
        self._pause_s = settings.backoff_initial_s
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._starts = 0
        self._log_bytes = 0
        self.died: Callable[[int], None] = lambda _pid: None
        self.refused: Callable[[str], None] = lambda _told: None

    def start(self) -> None:
        """Start the process and keep it alive."""
        self._task = asyncio.create_task(self._keep_alive())

    async def stop(self, timeout_s: float) -> None:
        """Ask the process to finish, and kill it when it takes too long."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(timeout_s):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.state, self.pid = "stopped", None

    def hurry(self) -> None:
        """Kill the process at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _keep_alive(self) -> None:
        while not self._stopping:
            status = await self._run(self.command)
            if status is None:
                return
            await self._pause(status)

    async def _run(self, command: Command) -> int | None:
        """Run the process once; returns how it ended, None when it was stopped."""
        started_ns = self._clock.monotonic_ns()
        try:
            process = await self._spawn(command)
        except Exception as error:
            # Not OSError alone: no thread, or no memory after the fork, are other kinds.
            self._process = None
            say(f"{command.identity} cannot be started: {str(error) or type(error).__name__}")
            return _NOT_STARTED
        self._starts += 1
        self._process, self.pid, self.state = process, process.pid, "running"
        self._changed()
        status = await process.wait()
        if self._stopping:
            return None
        self.pid = None
        lived_s = (self._clock.monotonic_ns() - started_ns) / 1e9
        if lived_s > self._settings.backoff_reset_s:
            self._pause_s = self._settings.backoff_initial_s
        if status == BAD_SETTINGS and self._starts == 1 and lived_s < _BEGINNING_S:
            self.refused(_last_words(self._log, self._log_bytes))
        return status

    async def _pause(self, status: int) -> None:
        """Count a restart, and wait a little longer than the last time."""
        pause_s = self._pause_s
        self._pause_s = min(pause_s * 2, self._settings.backoff_max_s)
        self.restarts += 1
        if self._process is not None:
            self.died(self._process.pid)
        self.last_end = self._told(status)
        self.state = f"restarting ({self.last_end})"
        self._changed()
        say(f"{self.command.identity} ended: {self.last_end}; restart in {pause_s:g} s")
        await asyncio.sleep(pause_s)

    @property
    def _is_out_of_memory(self) -> bool:
        """Tell whether the process was killed since its control group had no memory left."""
        return isinstance(self._process, GroupedProcess) and self._process.out_of_memory

    def _told(self, status: int) -> str:
        if self._is_out_of_memory:
            return OUT_OF_MEMORY
        if status < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-status).name
        return f"exit {status}"

    async def _spawn(self, command: Command) -> Process:
        descriptor = _open_log(self._log)
        self._log_bytes = os.fstat(descriptor).st_size
        try:
            return await self._start_process(command, descriptor)
        finally:
            os.close(descriptor)


def _open_log(log: Path) -> int:
    """Open a log to append to; without room for one the process runs all the same, unheard."""
    trim(log)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(log, flags | os.O_CREAT, 0o600)
    except OSError as error:
        say(f"no log at {log}: {error}")
        return os.open(os.devnull, flags)


def _last_words(log: Path, begin: int) -> str:
    """Return what a process that gave up has written last, which may be several lines.

    Its own words begin at an offset.
    """
    with contextlib.suppress(OSError), log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        # A log that was cut meanwhile holds its own words only.
        file.seek(max(begin if begin <= end else 0, end - _LAST_BYTES))
        text = "\n" + file.read().decode(errors="replace")
        _, is_there, told = text.rpartition(f"\n{PREFIX}")
        if is_there:
            return " ".join(told.rpartition(" [")[0].split())
    return f"see {log}"
