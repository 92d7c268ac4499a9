"""One child that is kept alive."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from salver.core.clock import Clock
from salver.core.settings import SupervisorSettings

_PR_SET_PDEATHSIG = 1
_MAX_LOG_BYTES = 32 * 1024 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a child: module, arguments, inherited sockets."""

    identity: str
    role: str
    module: str
    arguments: tuple[str, ...]
    descriptors: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


class Child:
    """Component that restarts its process whenever it ends, with growing pauses."""

    def __init__(
        self,
        command: Command,
        logs: Path,
        settings: SupervisorSettings,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self.command = command
        self.state = "starting"
        self.restarts = 0
        self.pid: int | None = None
        self._log = logs / f"{command.identity}.log"
        self._settings = settings
        self._clock = clock
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

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
        pause_s = self._settings.backoff_initial_s
        while not self._stopping:
            started_ns = self._clock.monotonic_ns()
            process = await self._spawn()
            self._process, self.pid, self.state = process, process.pid, "running"
            self._changed()
            status = await process.wait()
            if self._stopping:
                return
            lived_s = (self._clock.monotonic_ns() - started_ns) / 1e9
            if lived_s > self._settings.backoff_reset_s:
                pause_s = self._settings.backoff_initial_s
            self.restarts += 1
            self.pid, self.state = None, f"restarting (exit {status})"
            self._changed()
            _say(f"{self.command.identity} ended with {status}; restart in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._settings.backoff_max_s)

    async def _spawn(self) -> asyncio.subprocess.Process:
        command = self.command
        _rotate(self._log)
        descriptor = os.open(
            self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                command.module,
                *command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                pass_fds=command.descriptors,
                env={**os.environ, **command.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        finally:
            os.close(descriptor)


def _die_with_parent() -> None:
    """Ask the kernel to end the child when the supervisor is killed."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _rotate(log: Path) -> None:
    """Keep one older log, so that logs stay bounded."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))


def _say(text: str) -> None:
    print(f"salver: {text}", file=sys.stderr, flush=True)  # noqa: T201 - the supervisor's own log
