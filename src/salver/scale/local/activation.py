"""Workers that run while somebody asks: the supervisor holds their socket and starts them."""

import asyncio
import contextlib
import dataclasses
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from salver.core.clock import Clock
from salver.core.errors import (
    Conflict,
    MemoryLimitExceeded,
    ModelError,
    WireError,
    WorkerCrashed,
)
from salver.core.settings import SupervisorSettings
from salver.scale.local.process import Child
from salver.scale.local.start import Command, Start, start_anew
from salver.wire import attempts
from salver.wire.connection import Connection, LinkLimits
from salver.wire.ends import OUT_OF_MEMORY
from salver.wire.framing import Buffer
from salver.wire.messages import PROTOCOL_VERSION, Hello, Message, Snapshot, VariantState
from salver.wire.transport import DEFAULT_MAX_FRAME_BYTES
from salver.wire.unix import listening

_BACKLOG = 512
_ASLEEP = "asleep"


class Door:
    """A worker's listening socket, open for as long as the plan names the worker.

    Who connects while no process runs waits in the kernel, also across a crash of the process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def provision(self) -> None:
        """Listen; raises ``Conflict`` where that is not possible."""
        try:
            self._socket = listening(self._path, _BACKLOG)
        except OSError as error:
            raise Conflict(f"{self._path} cannot be used: {error.strerror or error}") from error

    @property
    def socket(self) -> socket.socket:
        """The socket; to be asked for between ``provision`` and ``stop`` only."""
        assert self._socket is not None
        return self._socket

    def stop(self) -> None:
        """Listen no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with contextlib.suppress(OSError):
                self._path.unlink()


class DoorChild(Child):
    """Component that keeps a worker's door open, and its process alive while it is wanted.

    ``demand`` says when that is: always, or while somebody connects. A process that ends with 0
    then was idle, unless it was loading. After a second crash in a row those who connect are told
    so at once.
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
        super().__init__(command, logs, settings, clock, changed, start_process)
        self._door: Door | None = None
        self._run_folder = Path()
        self._on_demand = False
        self._wanted = asyncio.Event()
        self._crashes = 0
        self._variants: tuple[str, ...] = ()

    def provision(self, path: Path) -> None:
        """Open the door; raises ``Conflict``."""
        self._door, self._run_folder = Door(path), path.parent
        self._door.provision()
        self.command = dataclasses.replace(self.command, door=self._door.socket.fileno())

    def demand(self, variants: tuple[str, ...], *, on_demand: bool, now: bool) -> None:
        """Take over what the worker hosts, and whether it runs on demand or ``now``."""
        self._variants, self._on_demand = variants, on_demand
        if now or not on_demand:
            self._wanted.set()
        else:
            # What an earlier plan wanted runs already, or is wanted no more.
            self._wanted.clear()

    async def stop(self, timeout_s: float) -> None:
        """End the process, and whatever waits at its door."""
        await super().stop(timeout_s)
        if self._door is not None:
            self._door.stop()

    async def _keep_alive(self) -> None:
        while not self._stopping:
            woken_ns = await self._asleep()
            arguments = (*self.command.arguments, "--woken-ns", str(woken_ns))
            status = await self._run(dataclasses.replace(self.command, arguments=arguments))
            if status is None:
                return
            if self._was_idle(status):
                self._pause_s = self._settings.backoff_initial_s
                continue
            await self._recover(status)
            if not woken_ns:
                # Whoever wanted it started is not somebody who waits at the door.
                self._wanted.set()

    def _was_idle(self, status: int) -> bool:
        """Tell whether a process left in good order; code may exit with 0 while it loads, too."""
        if status != 0 or not self._on_demand:
            return False
        return not attempts.read(self._run_folder, self.command.identity).going_on

    async def _asleep(self) -> int:
        """Wait until the process is wanted; returns since when somebody waits, 0 if nobody does."""
        if not self._on_demand or self._wanted.is_set():
            self._wanted.clear()
            return 0
        self.state = _ASLEEP
        self._changed()
        loop, door = asyncio.get_running_loop(), self._open_door
        woken_ns = 0

        def somebody() -> None:
            nonlocal woken_ns
            loop.remove_reader(door)
            woken_ns = self._clock.monotonic_ns()
            self._wanted.set()

        loop.add_reader(door, somebody)
        try:
            await self._wanted.wait()
        finally:
            loop.remove_reader(door)
        self._wanted.clear()
        self.state = "starting"
        return woken_ns

    @property
    def _open_door(self) -> socket.socket:
        assert self._door is not None
        return self._door.socket

    async def _recover(self, status: int) -> None:
        """Pause after a crash; from the second one on refuse those who come meanwhile."""
        if self._pause_s <= self._settings.backoff_initial_s:
            self._crashes = 0
        self._crashes += 1
        if self._crashes == 1 or not self._on_demand:
            await self._pause(status)
            return
        told = f"the process of worker {self.command.identity} ends when it starts"
        error: ModelError = WorkerCrashed(f"{told} ({self._told(status)}); see 'salver logs'")
        if self._is_out_of_memory:
            error = MemoryLimitExceeded(f"{told}: {OUT_OF_MEMORY}; give it a higher --memory-limit")
        refuser = Refuser(self._open_door, self.command.identity, self._variants, error)
        refuser.start()
        try:
            await self._pause(status)
        finally:
            refuser.stop()


class Refuser:
    """Component that speaks for a worker that cannot be started: greets, says why, and closes."""

    def __init__(
        self, door: socket.socket, identity: str, variants: tuple[str, ...], error: ModelError
    ) -> None:
        self._door = door
        self._hello = Hello(PROTOCOL_VERSION, "supervisor", identity, secrets.token_hex(8))
        states = [VariantState(name, "failed", error.code, error.message) for name in variants]
        self._snapshot = Snapshot(0, 0, os.getpid(), "failed", 0, tuple(states))
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        """Refuse who waits, and who comes."""
        asyncio.get_running_loop().add_reader(self._door, self._accept)

    def stop(self) -> None:
        """Let who comes wait again."""
        asyncio.get_running_loop().remove_reader(self._door)

    def _accept(self) -> None:
        try:
            accepted, _ = self._door.accept()
        except OSError:
            return
        loop = asyncio.get_running_loop()
        task: asyncio.Task[object] = loop.create_task(
            loop.connect_accepted_socket(self._connection, accepted)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _connection(self) -> Connection:
        limits = LinkLimits(DEFAULT_MAX_FRAME_BYTES)
        return Connection(self._hello, self._refuse, initiator=False, limits=limits)

    def _refuse(self, connection: Connection) -> "Refuser":
        connection.send(self._snapshot)
        asyncio.get_running_loop().call_soon(connection.close)
        return self

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take nothing."""

    def on_lost(self, error: WireError | None) -> None:
        """Forget the link."""
