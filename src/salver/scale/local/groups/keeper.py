"""Who makes and removes the control groups of this server's workers."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from salver.core.clock import Clock
from salver.core.errors import InvalidSettings, ResourceUnavailable
from salver.core.settings import SupervisorSettings
from salver.observe.cgroup import PROCS, group_prefix, memberships
from salver.observe.lines import say
from salver.scale.local.groups.base import Bounds, Groups, members
from salver.scale.local.groups.v1 import GroupsV1
from salver.scale.local.groups.v2 import GroupsV2

RLIMIT, CGROUP = "rlimit", "cgroup"
_WAYS = ("auto", RLIMIT, CGROUP)
_PROBED = Bounds(memory_bytes=1 << 28)
_PROBE_TIMEOUT_S = 20.0
_JOIN = "import sys\nfor path in sys.argv[1:]:\n    open(path, 'w').write('0')"
_INTERVAL_S = 2.0
_END_LOOKS, _END_PAUSE_S = 100, 0.02
_SERIALS = 10_000
_ALL_WORKERS = ""
_MAX_SAID = 1024
_NO_CPUS = ", without the part of a CPU"


class Keeper:
    """Component that has groups for workers where that works, and says why where it does not.

    ``way`` is ``rlimit``, or the version that is in use; ``why`` tells why it is no better one.
    The groups of a server that was killed are removed by its next one, with what still runs in
    them after ``stop_timeout_s``; nobody else's are touched.
    """

    def __init__(
        self,
        home: Path,
        settings: SupervisorSettings,
        clock: Clock,
        versions: Callable[[], Iterable[Groups]] | None = None,
    ) -> None:
        self.way, self.why = RLIMIT, ""
        self._settings = settings
        self._clock = clock
        self._home = home
        self._prefix = ""
        self._versions = versions or self._found
        self._groups: Groups | None = None
        self._live: set[str] = set()
        self._seen_ns: dict[Path, int] = {}
        self._serial = 0
        self._cpus_missing: set[str] = set()
        self._said: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def provision(self) -> None:
        """Find out what works, with a process that joins a group.

        Raises ``InvalidSettings`` or ``StorageFull``.
        """
        wanted = self._settings.worker_limits
        if wanted not in _WAYS:
            raise InvalidSettings(
                f"supervisor.worker_limits is one of {', '.join(_WAYS)}, not {wanted!r}"
            )
        if ".." in Path(self._settings.cgroup_root).parts:
            raise InvalidSettings("supervisor.cgroup_root is a path without '..'")
        if wanted == RLIMIT:
            self.why = "supervisor.worker_limits says so"
            return
        self._prefix = group_prefix(self._home)
        reasons: list[str] = []
        for groups in self._versions():
            try:
                groups.provision()
                self._groups = groups
                self._probe(groups)
            except (OSError, ValueError, ResourceUnavailable) as error:
                self._groups = None
                groups.stop()
                reasons.append(f"{groups.name}: {_cause(error)}")
                continue
            self.way, self.why = groups.name, ""
            self.tidy()
            return
        self.why = "; ".join(reasons) or "this machine has no control groups"

    def start(self) -> None:
        """Tidy now and then."""
        if self._groups is not None:
            self._task = asyncio.create_task(self._tidy_for_ever())

    async def stop(self) -> None:
        """Remove what is left, after all workers have ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        groups = self._groups
        if groups is None:
            return
        for _ in range(_END_LOOKS):
            leftovers = self._leftovers()
            if not leftovers:
                break
            for folder in leftovers:
                with suppress(OSError):
                    groups.kill(folder)
                self._remove(folder)
            await asyncio.sleep(_END_PAUSE_S)
        groups.stop()

    def make(self, worker: str, bounds: Bounds) -> tuple[Path, ...]:
        """Return the folders of a new group for a worker's process; none where there can be none.

        Part of a CPU is given up rather than the memory limit.
        """
        if bounds == bounds._replace(memory_bytes=0, cpus=0.0):
            return ()
        if self._groups is None:
            told = f"limits of workers are kept by each process (RLIMIT): {self.why}"
            self._say(_ALL_WORKERS, self.why, told)
            return ()
        try:
            folders = self._made(worker, bounds)
        except OSError as error:
            told = f"{worker} has no control group for all of its limits: {_cause(error)}"
            # Without the group's name, which is another one each time.
            self._say(worker, error.strerror or str(error), told)
        else:
            self._said.pop(worker, None)
            return folders
        if not (bounds.memory_bytes and bounds.cpus):
            return ()
        with suppress(OSError):
            folders = self._made(worker, bounds._replace(cpus=0.0))
            self._cpus_missing.add(folders[0].name)
            return folders
        return ()

    def way_of(self, folders: tuple[Path, ...]) -> str:
        """Return what keeps a worker to its limits whose group ``make`` has made, in words."""
        if not folders:
            return RLIMIT
        return f"{self.way}{_NO_CPUS if folders[0].name in self._cpus_missing else ''}"

    def memory_kills(self, folders: tuple[Path, ...]) -> int:
        """Return how many processes of a group were killed for want of memory."""
        return 0 if self._groups is None else self._groups.memory_kills(folders)

    def release(self, folders: tuple[Path, ...]) -> None:
        """Kill what a worker has left running in its group, and remove the group."""
        if self._groups is None or not folders:
            return
        self._live.discard(folders[0].name)
        self._cpus_missing.discard(folders[0].name)
        for folder in folders:
            if members(folder):
                with suppress(OSError):
                    self._groups.kill(folder)
            self._remove(folder)

    def tidy(self) -> None:
        """Remove groups whose processes have ended, or have had their time to."""
        groups, now_ns = self._groups, self._clock.monotonic_ns()
        if groups is None:
            return
        folders = self._leftovers()
        self._seen_ns = {folder: self._seen_ns.get(folder, now_ns) for folder in folders}
        for folder, seen_ns in self._seen_ns.items():
            if now_ns - seen_ns > self._settings.stop_timeout_s * 1e9 and members(folder):
                with suppress(OSError):
                    groups.kill(folder)
            self._remove(folder)

    def _found(self) -> Iterable[Groups]:
        own, settings = memberships(), self._settings
        for one in own:
            if one.version == 2:  # noqa: PLR2004 - cgroup v2
                trusting = settings.worker_limits == CGROUP
                yield GroupsV2(one, settings.cgroup_root, self._leaf, trusting=trusting)
        yield GroupsV1([one for one in own if one.version == 1], settings.cgroup_root)

    @property
    def _leaf(self) -> str:
        return f"{self._prefix}self"

    def _made(self, worker: str, bounds: Bounds) -> tuple[Path, ...]:
        assert self._groups is not None
        for _ in range(_SERIALS):
            self._serial += 1
            name = f"{self._prefix}{worker}.{self._serial}"
            try:
                folders = self._groups.make(name, bounds)
            except FileExistsError:
                continue
            self._live.add(name)
            return folders
        raise FileExistsError(f"there are {_SERIALS} groups of {worker} already")

    def _probe(self, groups: Groups) -> None:
        """Have a process join a group with a limit; raises unless both are so."""
        folders = self._made("probe", _PROBED)
        try:
            paths = [str(folder / PROCS) for folder in folders]
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", _JOIN, *paths],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=_PROBE_TIMEOUT_S,
            )
            if groups.limit_bytes(folders) != _PROBED.memory_bytes:
                raise ResourceUnavailable(f"{folders[0]} does not keep the limit that it is given")
        except subprocess.SubprocessError as error:
            raise ResourceUnavailable(f"{folders[0]} lets no process in: {error}") from error
        finally:
            self.release(folders)

    def _leftovers(self) -> list[Path]:
        if self._groups is None:
            return []
        return [
            folder
            for place in self._groups.places()
            for folder in place.glob(f"{self._prefix}*")
            if folder.name not in self._live and folder.name != self._leaf and folder.is_dir()
        ]

    def _remove(self, folder: Path) -> None:
        """Remove a group; what still ends in it has it removed later."""
        assert self._groups is not None
        with suppress(OSError):
            self._groups.remove(folder)

    def _say(self, worker: str, cause: str, text: str) -> None:
        """Say it unless that was the last thing said of a worker, which may often start anew."""
        if self._said.pop(worker, None) != cause:
            say(text)
        self._said[worker] = cause
        if len(self._said) > _MAX_SAID:
            del self._said[next(iter(self._said))]

    async def _tidy_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self.tidy()


def _cause(error: Exception) -> str:
    return error.message if isinstance(error, ResourceUnavailable) else str(error)
