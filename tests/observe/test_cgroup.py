"""What control groups say: trees of files as both versions have them, and this machine's own."""

from pathlib import Path

import pytest

from salver.observe.cgroup import cgroup_limit_bytes, cgroup_share, group_prefix, memberships

STAT_2 = "anon 1\ninactive_file 100\nactive_file 200"
STAT_1 = "cache 1\ntotal_inactive_file 300\ntotal_active_file 200"
MOUNT = "33 31 0:30 {root} {top} rw,relatime shared:9 - {kind} cgroup rw,{options}\n"


class Machine:
    """The files of a machine, as far as they tell of control groups."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.proc.mkdir()
        self._tree = folder / "with space"
        self._mounts = "1 0 0:1 / / rw - ext4 /dev/vda rw\n"

    def mount(self, kind: str, options: str, root: str = "/") -> Path:
        """Mount a hierarchy, from a group of it on."""
        top = self._tree / options
        top.mkdir(parents=True)
        shown = str(top).replace(" ", "\\040")
        self._mounts += MOUNT.format(root=root, top=shown, kind=kind, options=options)
        (self.proc / "mountinfo").write_text(self._mounts)
        return top

    def be_in(self, text: str) -> None:
        """Say where the process is."""
        (self.proc / "cgroup").write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Give a machine without control groups."""
    return Machine(tmp_path)


def group(folder: Path, files: dict[str, object]) -> None:
    """Write the files of a control group."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def limited(version: int, limit: object, used_bytes: int) -> dict[str, object]:
    """Return the files of a group with a memory limit."""
    if version == 2:
        return {"memory.max": limit, "memory.current": used_bytes, "memory.stat": STAT_2}
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": used_bytes,
        "memory.stat": STAT_1,
    }


def test_control_groups_of_version_2(machine: Machine) -> None:
    """The tightest group on the way up counts, without the pages of files."""
    top = machine.mount("cgroup2", "nsdelegate")
    group(top / "pod" / "container", limited(2, "max", 900))
    group(top / "pod", limited(2, 1000, 900))
    machine.be_in("0::/pod/container\n")
    assert cgroup_share(machine.proc) == 0.6
    assert cgroup_limit_bytes(machine.proc) == 1000


def test_control_groups_of_version_1(machine: Machine) -> None:
    """So it does in version 1, where hierarchies of version 2 without memory stand beside it."""
    machine.mount("cgroup2", "nsdelegate")
    top = machine.mount("cgroup", "cpu,memory")
    group(top, limited(1, 9223372036854771712, 5000))
    group(top / "docker" / "abc", limited(1, 2000, 1000))
    machine.be_in("9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n")
    assert cgroup_share(machine.proc) == 0.25
    assert cgroup_limit_bytes(machine.proc) == 2000


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_a_part_of_the_hierarchy(machine: Machine, version: int) -> None:
    """Paths are told from the machine's root on, and found from the container's: nested ones too.

    Those of groups that cannot be seen stand for the top of what can.
    """
    kind, options = ("cgroup", "memory") if version == 1 else ("cgroup2", "nsdelegate")
    line = "4:memory:" if version == 1 else "0::"
    top = machine.mount(kind, options, root="/docker/abc")
    group(top, limited(version, 4000, 1500))
    group(top / "own" / "nested", limited(version, 2000, 1500))
    taken_bytes = 1000 if version == 1 else 1200
    for path, limit_bytes in {
        "/docker/abc/own/nested": 2000,
        "/docker/abc/own": 4000,
        "/docker/abc": 4000,
        "/elsewhere": 4000,
        "/../other": 4000,
    }.items():
        machine.be_in(f"{line}{path}\n")
        assert cgroup_limit_bytes(machine.proc) == limit_bytes, path
        assert cgroup_share(machine.proc) == taken_bytes / limit_bytes, path
        assert memberships(machine.proc)[0].folder.is_relative_to(top)


def test_a_workers_own_group_is_not_the_machines(machine: Machine, tmp_path: Path) -> None:
    """What a server made for a limit of one worker says nothing of memory that all share."""
    top = machine.mount("cgroup2", "nsdelegate")
    name = f"{group_prefix(tmp_path)}dedicated-x.1"
    group(top / "unit", limited(2, 4000, 1500))
    group(top / "unit" / name, limited(2, 1000, 999))
    machine.be_in(f"0::/unit/{name}\n")
    assert memberships(machine.proc)[0].folder.name == name
    assert cgroup_limit_bytes(machine.proc) == 4000
    assert cgroup_share(machine.proc) == 0.3


@pytest.mark.parametrize("text", ["", "0::/none\n", "nonsense\n", "5:memory:/\n"])
def test_without_a_limit_nothing_is_short(machine: Machine, text: str) -> None:
    """Missing and unreadable groups count for nothing."""
    machine.mount("cgroup2", "nsdelegate")
    machine.be_in(text)
    assert cgroup_share(machine.proc) == 0.0
    assert cgroup_limit_bytes(machine.proc) == 0
    assert cgroup_share(machine.proc / "missing") == 0.0


def test_the_machines_own_files_can_be_read() -> None:
    """What this machine says is a share, and its groups are there."""
    assert 0.0 <= cgroup_share() < 100.0
    assert cgroup_limit_bytes() >= 0
    assert all(one.folder.is_dir() for one in memberships())
