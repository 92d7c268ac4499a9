"""Control groups: real ones where this machine has them.

No test is skipped: where there are no groups, what must hold is the way back to plain limits.
"""

import asyncio
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.core.clock import ManualClock
from salver.core.errors import InvalidSettings
from salver.core.hosting import Limits
from salver.core.settings import SupervisorSettings
from salver.observe.cgroup import Membership, group_prefix, memberships
from salver.scale.local.groups.base import Bounds, Groups, members
from salver.scale.local.groups.grouping import Grouping, bounds_of
from salver.scale.local.groups.keeper import Keeper
from salver.scale.local.groups.process import GroupedProcess
from salver.scale.local.groups.v1 import GroupsV1
from salver.scale.local.groups.v2 import GroupsV2
from salver.scale.local.start import Command, start_anew
from salver.wire import ends
from salver.wire.messages import WorkerPlan
from tests import groups
from tests.scale.loop import in_loop

LIMIT_BYTES = 1 << 28
SETTINGS = SupervisorSettings(stop_timeout_s=5.0)
HAS_MEMORY, HAS_CPU = groups.has_v1_memory(), groups.has_v1_cpu()
HOLDS = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def prefix(tmp_path: Path) -> Iterator[str]:
    """Give how the names of this test's groups begin; none is left."""
    name = group_prefix(tmp_path)
    yield name
    left = groups.named(name)
    groups.remove(name)
    assert left == []


def test_a_machine_without_groups_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Workers get none, and that is said once, when the first of them asks."""
    keeper = Keeper(tmp_path, SETTINGS, ManualClock(), lambda: [GroupsV1([], "")])
    keeper.provision()
    assert (keeper.way, "no hierarchy" in keeper.why) == ("rlimit", True)
    assert keeper.make("w", Bounds()) == ()
    assert capfd.readouterr().err == ""
    assert keeper.make("w", Bounds(LIMIT_BYTES)) == ()
    assert keeper.make("w", Bounds(cpus=0.5)) == ()
    assert capfd.readouterr().err.count("kept by each process (RLIMIT): cgroup v1: no hier") == 1


def test_a_group_that_cannot_be_made_is_why(tmp_path: Path) -> None:
    """The system's own words tell what was missing."""
    place = tmp_path / "file"
    place.write_text("")
    own = Membership(1, frozenset({"memory"}), tmp_path, place)
    keeper = Keeper(tmp_path, SETTINGS, ManualClock(), lambda: [GroupsV1([own], "")])
    keeper.provision()
    assert (keeper.way, f"'{place}'" in keeper.why) == ("rlimit", True)


@pytest.mark.parametrize(
    ("worker_limits", "cgroup_root"), [("cgroups", ""), ("", ""), ("auto", "/a/../..")]
)
def test_what_is_no_setting_is_refused(
    tmp_path: Path, worker_limits: str, cgroup_root: str
) -> None:
    """A word that is none of the three, and a root that leads elsewhere."""
    settings = SupervisorSettings(worker_limits=worker_limits, cgroup_root=cgroup_root)
    with pytest.raises(InvalidSettings):
        Keeper(tmp_path, settings, ManualClock()).provision()


def test_whole_cpus_need_no_group() -> None:
    """Only a part of one does, which threads cannot be pinned to."""
    assert bounds_of(Limits("2"), background=False) == Bounds()
    assert bounds_of(Limits("0-1", 5), background=True) == Bounds(5, 0.0, background=True)
    assert bounds_of(Limits("1.5"), background=False) == Bounds(cpus=1.5)


class Own:
    """A keeper of this machine, and what it must be able to do."""

    def __init__(self, home: Path, cgroup_root: str = "") -> None:
        self.clock = ManualClock()
        chosen = dataclasses.replace(SETTINGS, cgroup_root=cgroup_root)
        self.keeper = Keeper(home, chosen, self.clock)
        self.keeper.provision()
        self.works = self.keeper.way != "rlimit"
        assert self.works or not HAS_MEMORY, self.keeper.why

    def stop(self) -> None:
        """Remove what is left."""
        asyncio.run(self.keeper.stop())


def holder(folders: tuple[Path, ...]) -> subprocess.Popen[str]:
    """Return a process that lives in a group until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    for folder in folders:
        (folder / "cgroup.procs").write_text(str(process.pid))
    return process


def test_groups_come_and_go(tmp_path: Path, prefix: str) -> None:
    """A group is there for each process, with its limits; released, it is gone with who is in."""
    own = Own(tmp_path)
    wanted = Bounds(LIMIT_BYTES, 0.5 if HAS_CPU else 0.0)
    first, second = own.keeper.make("w", wanted), own.keeper.make("w", wanted)
    if not own.works:
        assert first == second == ()
        return
    assert set(first).isdisjoint(second)
    assert {path.name for path in (*first, *second)} == {f"{prefix}w.2", f"{prefix}w.3"}
    with holder(first) as process:
        assert members(first[0]) == [process.pid]
        own.keeper.release(first)
        assert process.wait(20) == -signal.SIGKILL
    own.keeper.release(second)
    own.stop()


def test_only_own_leftovers_are_removed(tmp_path: Path, prefix: str) -> None:
    """By the name of the home; what still runs in one gets its time to stop before it is killed."""
    own = Own(tmp_path)
    other = Keeper(tmp_path / "other", SETTINGS, own.clock)
    other.provision()
    kept = other.make("w", Bounds(LIMIT_BYTES))
    left = own.keeper.make("w", Bounds(LIMIT_BYTES))
    idle = own.keeper.make("w", Bounds(LIMIT_BYTES))
    with holder(left) as process:
        again = Own(tmp_path)
        if not own.works:
            process.kill()
            assert (kept, left, idle) == ((), (), ())
            return
        assert not any(folder.exists() for folder in idle)
        again.clock.advance(4.0)
        again.keeper.tidy()
        assert process.poll() is None
        again.clock.advance(2.0)
        again.keeper.tidy()
        assert process.wait(20) == -signal.SIGKILL
    again.stop()
    assert not any(folder.exists() for folder in left)
    assert kept[0].is_dir()
    other.release(kept)
    assert not kept[0].exists()


def test_a_home_of_the_same_path_is_not_the_same_home(tmp_path: Path, prefix: str) -> None:
    """Containers have the same paths and may share groups; neither takes the other's for its own.

    A server that comes back to its home still knows its own.
    """
    home, moved = tmp_path / "data", tmp_path / "moved"
    home.mkdir()
    first = Own(home)
    kept = first.keeper.make("w", Bounds(LIMIT_BYTES))
    home.rename(moved)
    home.mkdir()
    with holder(kept) as process:
        second = Own(home)
        second.clock.advance(60.0)
        second.keeper.tidy()
        second.stop()
        assert all(members(folder) == [process.pid] for folder in kept)
        process.kill()
    shutil.rmtree(home)
    moved.rename(home)
    again = Own(home)
    again.stop()
    first.stop()
    assert not any(folder.exists() for folder in kept)


def test_groups_beneath_a_root_of_their_own(tmp_path: Path, prefix: str) -> None:
    """The root is made where it is named, and goes when the server stops."""
    root = f"/{prefix}root"
    own = Own(tmp_path / "home", cgroup_root=root)
    made = own.keeper.make("w", Bounds(LIMIT_BYTES))
    assert all(folder.parent.name == root.strip("/") for folder in made)
    assert bool(made) is own.works
    own.keeper.release(made)
    own.stop()


HUNGRY = "tests.scale.hungry"


@in_loop
async def test_a_process_over_its_groups_limit_is_told_from_others() -> None:
    """The kernel's kill is noted with the limit; another's kill and an exit are not."""
    seen: dict[str, tuple[int, bool, bool]] = {}
    with tempfile.TemporaryDirectory(prefix="groups-") as name:
        home = Path(name)
        (home / "run").mkdir()
        grouping = Grouping(home, SETTINGS, ManualClock())
        grouping.provision()
        works = grouping.told.startswith("cgroup")
        assert works or not HAS_MEMORY
        worker = WorkerPlan("w", "dedicated", "unix:/w", limits=Limits(memory_bytes=LIMIT_BYTES))
        try:
            for mode in ("eats", "exits", "killed"):
                command = Command("w", "worker", HUNGRY, ("--mode", mode))
                with (home / "log").open("ab") as log:
                    process = await grouping.start_process(
                        command, log.fileno(), worker, start_anew
                    )
                status = await process.wait()
                end = ends.read(home / "run", "w")
                noted = end is not None and end == ends.End(process.pid, LIMIT_BYTES)
                grouped = isinstance(process, GroupedProcess) and process.out_of_memory
                seen[mode] = (status, noted, grouped)
                assert ends.is_noted(home / "run", "w") is works
            assert grouping.ways["w"] == (grouping.told if works else "rlimit")
        finally:
            await grouping.stop()
            left = groups.named(group_prefix(home))
            groups.remove(group_prefix(home))
    assert left == []
    assert seen == {
        "eats": (-signal.SIGKILL, True, True) if works else (0, False, False),
        "exits": (3, False, False),
        "killed": (-signal.SIGKILL, False, False),
    }


async def last_of(grouping: Grouping, home: Path, mode: str, *, kill: bool) -> tuple[int, bool]:
    """Return how a process with a limit ends, and whether that was for want of memory."""
    worker = WorkerPlan("w", "dedicated", "unix:/w", limits=Limits(memory_bytes=LIMIT_BYTES))
    command = Command("w", "worker", HUNGRY, ("--mode", mode))
    with (home / "log").open("ab") as log:
        process = await grouping.start_process(command, log.fileno(), worker, start_anew)
    if kill:
        async with asyncio.timeout(60):
            while "bereft" not in (home / "log").read_text():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        process.kill()
    status = await process.wait()
    end = ends.read(home / "run", "w")
    assert end is None or end.pid == process.pid
    return status, end is not None and end.memory_limit_bytes > 0


@in_loop
async def test_kills_for_want_of_memory_elsewhere_are_not_the_workers() -> None:
    """Those for the sake of a group above, and the supervisor's own, which all have SIGKILL."""
    with tempfile.TemporaryDirectory(prefix="groups-") as name:
        home = Path(name)
        (home / "run").mkdir()
        prefix = group_prefix(home)
        chosen = dataclasses.replace(SETTINGS, cgroup_root=f"/{prefix}root")
        grouping = Grouping(home, chosen, ManualClock())
        grouping.provision()
        tops = [path for path in groups.named(f"{prefix}root") if "memory" in path.parts]
        assert bool(tops) is HAS_MEMORY
        try:
            bereft = await last_of(grouping, home, "bereft", kill=bool(tops))
            for top in tops:
                (top / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES // 2))
            above = await last_of(grouping, home, "eats", kill=False)
        finally:
            await grouping.stop()
            groups.remove(prefix)
    if tops:
        assert (bereft, above) == ((-signal.SIGKILL, False), (-signal.SIGKILL, False))


def test_processes_of_the_second_version_are_killed_and_leave(tmp_path: Path, prefix: str) -> None:
    """Where a hierarchy of version 2 can be written, its real groups let in, kill and go."""
    own = next((one for one in memberships() if one.version == 2), None)
    if own is None or not os.access(own.folder, os.W_OK):
        keeper = Keeper(tmp_path, SETTINGS, ManualClock())
        keeper.provision()
        assert keeper.way != "cgroup v2"
        return
    folder = own.folder / f"{prefix}real"
    folder.mkdir()
    tree: Groups = GroupsV2(own, "", "unused")
    try:
        with holder((folder,)) as process:
            assert members(folder) == [process.pid]
            tree.kill(folder)
            assert process.wait(20) == -signal.SIGKILL
    finally:
        tree.remove(folder)
