"""Control groups of version 2, whose files are in a folder here; every machine has that."""

import os
from pathlib import Path

import pytest

from salver.core.clock import ManualClock
from salver.core.errors import ResourceUnavailable
from salver.core.settings import SupervisorSettings
from salver.scale.local.groups.base import Bounds
from salver.scale.local.groups.keeper import Keeper
from tests.scale.trees import Memory, Tree, text, unit

LIMIT_BYTES = 1 << 28
SETTINGS = SupervisorSettings(stop_timeout_s=5.0)


def test_version_2_moves_out_of_the_way_and_passes_memory_on(tmp_path: Path) -> None:
    """This process goes to a leaf, since none may be where controllers are passed on."""
    own = unit(tmp_path)
    tree = Tree(own, "", "salver-x.self", trusting=True)
    tree.provision()
    assert text(own.folder / "salver-x.self" / "cgroup.procs") == str(os.getpid())
    assert text(own.folder / "cgroup.subtree_control") == "+memory"
    (folder,) = tree.make("salver-x.w.1", Bounds(LIMIT_BYTES))
    assert text(folder / "memory.max") == str(LIMIT_BYTES)
    assert text(folder / "memory.swap.max") == "0"
    assert not (folder / "cpu.max").exists()
    (half,) = tree.make("salver-x.w.2", Bounds(cpus=0.5, background=True))
    assert text(own.folder / "cgroup.subtree_control") == "+cpu"
    assert text(half / "cpu.max") == "50000 100000"
    assert text(half / "cpu.idle") == "1"
    assert not (half / "memory.max").exists()
    assert tree.limit_bytes((folder,)) == LIMIT_BYTES
    assert tree.memory_kills((folder,)) == 0
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\n")
    assert tree.memory_kills((folder,)) == 3
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 0\noom_kill 3\n")
    assert tree.memory_kills((folder,)) == 0
    tree.remove(folder)
    tree.remove(half)
    tree.stop()
    assert text(own.folder / "cgroup.subtree_control") == "-memory"
    assert text(own.folder / "cgroup.procs") == str(os.getpid())
    assert not (own.folder / "salver-x.self").exists()


def test_version_2_is_killed_at_once(tmp_path: Path) -> None:
    """One write ends all of a group where the kernel has that file."""
    own = unit(tmp_path)
    tree = Tree(own, "", "salver-x.self", trusting=True)
    tree.provision()
    (folder,) = tree.make("salver-x.w.1", Bounds(LIMIT_BYTES))
    (folder / "cgroup.kill").write_text("")
    tree.kill(folder)
    assert text(folder / "cgroup.kill") == "1"


def test_version_2_goes_back_into_the_leaf_of_its_last_run(tmp_path: Path) -> None:
    """A server that is started from within a leaf uses the group above."""
    own = unit(tmp_path, cgroup_procs="")
    leaf = own.folder / "salver-x.self"
    leaf.mkdir()
    tree = Tree(own._replace(folder=leaf), "", "salver-x.self", trusting=True)
    tree.provision()
    assert tree.places() == [own.folder]


def test_version_2_beneath_another_group(tmp_path: Path) -> None:
    """A root that the settings name is made, and this process stays where it is."""
    own = unit(tmp_path)
    root = own.top / "models"
    root.mkdir()
    (root / "cgroup.controllers").write_text("memory\n")
    tree = Tree(own, "/models", "salver-x.self")
    tree.provision()
    assert tree.places() == [root]
    assert text(own.folder / "cgroup.procs") == str(os.getpid())
    assert text(root / "cgroup.subtree_control") == "+memory"


@pytest.mark.parametrize("root", ["", "/system.slice/salver.service"], ids=["inside", "root"])
@pytest.mark.parametrize("ends", ["stops", "fails"])
def test_version_2_leaves_others_their_controllers(tmp_path: Path, root: str, ends: str) -> None:
    """Without them the groups of another server in the same place would have no limits."""
    own = unit(tmp_path)
    first, second = (Tree(own, root, f"salver-{name}.self", trusting=True) for name in "ab")
    first.provision()
    second.provision()
    subtree = own.folder / "cgroup.subtree_control"
    subtree.write_text("memory\n")
    second.make("salver-b.w.1", Bounds(LIMIT_BYTES))
    if ends == "stops":
        first.stop()
    else:
        (own.folder / "cgroup.controllers").write_text("cpu\n")
        keeper = Keeper(tmp_path, SETTINGS, ManualClock(), lambda: [first])
        keeper.provision()
        assert keeper.way == "rlimit"
    assert text(subtree) == "memory"


def test_version_2_has_a_background_after_a_server_that_was_killed(tmp_path: Path) -> None:
    """What counts is what the place passes on, whoever had it do so."""
    own = unit(tmp_path, cgroup_subtree_control="cpu memory")
    tree = Tree(own, "", "salver-a.self", trusting=True)
    tree.provision()
    for bounds in (Bounds(LIMIT_BYTES, 0.5, background=True), Bounds(LIMIT_BYTES, background=True)):
        (folder,) = tree.make(f"salver-a.w.{bounds.cpus}", bounds)
        assert text(folder / "cpu.idle") == "1"
    (folder,) = tree.make("salver-a.w.first", Bounds(LIMIT_BYTES))
    assert not (folder / "cpu.idle").exists()


def test_version_2_keeps_a_root_of_its_own_as_it_is(tmp_path: Path) -> None:
    """Another server may be about to make its first group there."""
    own = unit(tmp_path)
    tree = Tree(own, "/system.slice/salver.service", "salver-a.self")
    tree.provision()
    tree.stop()
    assert text(own.folder / "cgroup.subtree_control") == "+memory"


@pytest.mark.parametrize(
    ("files", "trusting", "why"),
    [
        ({"cgroup_controllers": "pids"}, True, "has no memory controller"),
        ({"cgroup_procs": f"{os.getpid()}\n1"}, True, "has processes of others .1., and only"),
    ],
)
def test_version_2_leaves_others_alone(
    tmp_path: Path, files: dict[str, str], *, trusting: bool, why: str
) -> None:
    """Nothing is moved or passed on where others are, or no memory can be limited."""
    own = unit(tmp_path, **files)
    before = {path.name: path.read_text() for path in own.folder.iterdir()}
    with pytest.raises(ResourceUnavailable, match=why):
        Tree(own, "", "salver-x.self", trusting=trusting).provision()
    assert {path.name: path.read_text() for path in own.folder.iterdir()} == before


def test_who_may_write_everywhere_asks_whether_the_place_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root takes a service's group only if systemd has marked it, or it is all there is to see."""
    own = unit(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ResourceUnavailable, match="Delegate=yes"):
        Tree(own, "", "salver-x.self").provision()
    os.setxattr(own.folder, "user.delegate", b"1")
    Tree(own, "", "salver-x.self").provision()
    os.removexattr(own.folder, "user.delegate")
    Tree(own._replace(top=own.folder), "", "salver-x.self").provision()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    Tree(own, "", "salver-x.self").provision()


def test_a_part_of_a_cpu_that_is_missing_is_told_of_each_worker(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Once for each cause, however often it starts anew, and with what keeps its limits."""
    tree = Memory(unit(tmp_path), "", "salver-x.self", trusting=True)
    keeper = Keeper(tmp_path, SETTINGS, ManualClock(), lambda: [tree])
    keeper.provision()
    bounds = Bounds(LIMIT_BYTES, 0.5)
    for worker in ("one", "two", "one", "two", "one"):
        folders = keeper.make(worker, bounds)
        assert text(folders[0] / "memory.max") == str(LIMIT_BYTES)
        assert keeper.way_of(folders) == "cgroup v2, without the part of a CPU"
        keeper.release(folders)
    assert keeper.way_of(keeper.make("one", bounds._replace(memory_bytes=0))) == "rlimit"
    lines = capfd.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["one", "two"]
    tree.why = "another cause"
    assert keeper.way_of(keeper.make("one", bounds._replace(cpus=0.0))) == "cgroup v2"
    for _ in range(2):
        keeper.make("one", bounds)
    assert capfd.readouterr().err.count("another cause") == 1
