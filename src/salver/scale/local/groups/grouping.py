"""Starts workers' processes in the groups that their limits need, and notes how those end."""

import contextlib
import dataclasses
from functools import partial
from pathlib import Path

from salver.core.clock import Clock
from salver.core.hosting import Limits, parse_cpus
from salver.core.settings import SupervisorSettings
from salver.scale.local.groups.base import Bounds
from salver.scale.local.groups.keeper import RLIMIT, Keeper
from salver.scale.local.groups.process import GroupedProcess
from salver.scale.local.start import Command, Process, Start
from salver.wire import ends
from salver.wire.messages import WorkerPlan


class Grouping:
    """Component between the supervisor and its workers' control groups.

    ``ways`` says of each worker with a limit what keeps it to that.
    """

    def __init__(self, home: Path, settings: SupervisorSettings, clock: Clock) -> None:
        self.ways: dict[str, str] = {}
        self._run = home / "run"
        self._keeper = Keeper(home, settings, clock)

    def provision(self) -> None:
        """Find out what works; raises ``InvalidSettings`` or ``StorageFull``."""
        ends.clear(self._run)
        self._keeper.provision()

    def start(self) -> None:
        """Begin to remove what earlier servers left."""
        self._keeper.start()

    async def stop(self) -> None:
        """Remove all groups; to be called when all workers have ended."""
        await self._keeper.stop()

    @property
    def told(self) -> str:
        """In words, what keeps workers to their limits."""
        keeper = self._keeper
        return keeper.way if keeper.way != RLIMIT else f"{RLIMIT} ({keeper.why})"

    async def start_process(
        self, command: Command, log: int, worker: WorkerPlan | None, start: Start
    ) -> Process:
        """Start a worker in the group that its limits need, if there can be one."""
        bounds = Bounds() if worker is None else bounds_of(worker.limits, worker.background)
        limited = bool(bounds.memory_bytes or bounds.cpus)
        self.ways.pop(command.identity, None)
        if not limited:
            return await start(command, log)
        folders = self._keeper.make(command.identity, bounds)
        self.ways[command.identity] = self._keeper.way_of(folders)
        if not folders:
            ends.forget(self._run, command.identity)
            return await start(command, log)
        # Without a note, as on a full disk, callers learn that the process died, and no more.
        with contextlib.suppress(OSError):
            ends.expect(self._run, command.identity)
        try:
            process = await start(dataclasses.replace(command, groups=folders), log)
        except BaseException:
            self._keeper.release(folders)
            raise
        ended = partial(self._ended, command.identity, bounds.memory_bytes)
        return GroupedProcess(process, self._keeper, folders, ended)

    def _ended(self, identity: str, limit_bytes: int, pid: int, out_of_memory: bool) -> None:
        with contextlib.suppress(OSError):
            ends.tell(self._run, identity, ends.End(pid, limit_bytes if out_of_memory else 0))


def bounds_of(limits: Limits, background: bool) -> Bounds:
    """Return what a control group has to keep a worker to; whole CPUs it keeps to by itself."""
    cpus = parse_cpus(limits.cpus).share if limits.cpus else 0.0
    return Bounds(limits.memory_bytes, cpus, background)
