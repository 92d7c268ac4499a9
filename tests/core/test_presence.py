"""Whose files about themselves are believed."""

import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from salver.core import presence
from salver.core.errors import StorageFull
from salver.core.presence import announce, announced, withdraw
from tests.disk import no_larger_than, small_disk
from tests.running import running

FACTS = {"url": "http://127.0.0.1:9", "pid": 7}
_ANNOUNCES = """
import sys, time
from pathlib import Path
from salver.core.presence import announce
held = announce(Path(sys.argv[1]), {"url": "http://127.0.0.1:9", "pid": 7})
print(flush=True)
time.sleep(600)
"""


def writer(path: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run a process that announces itself and does nothing more."""
    return running([sys.executable, "-c", _ANNOUNCES, str(path)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a process says where it is."""
    return tmp_path / "process.json"


def test_what_a_process_says_counts_until_it_is_killed(path: Path) -> None:
    """The file stays, and is believed no more; a stopped process lives."""
    with writer(path) as running:
        os.kill(running.pid, signal.SIGSTOP)
        assert announced(path) == announced(path) == FACTS
        running.kill()
        running.wait()
        assert path.exists()
        assert announced(path) == {}


def test_a_file_that_nobody_holds_is_not_believed(path: Path) -> None:
    """Whatever pid it names, also one that lives."""
    document = {"pid": os.getpid(), "place": presence.place()}
    path.write_text(json.dumps(document))
    assert announced(path) == {}
    assert announced(path.with_name("missing")) == {}


def test_a_later_writer_does_not_vouch_for_what_an_earlier_one_said(path: Path) -> None:
    """Each holds its own file, and one that ends takes away its own only."""
    first = announce(path, {"url": "first"})
    second = announce(path, {"url": "second"})
    withdraw(path, first)
    assert announced(path) == {"url": "second"}
    withdraw(path, second)
    assert not path.exists()


def test_children_do_not_keep_it_alive(path: Path) -> None:
    """One that its writer started, and that outlives it, has nothing of it."""
    script = _ANNOUNCES.replace(
        "print(flush=True)",
        "import subprocess; child = subprocess.Popen(['sleep', '600'], close_fds=False); "
        "print(child.pid, flush=True)",
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        child = int(running.stdout.readline())
        try:
            assert announced(path) == FACTS
            running.kill()
            running.wait()
            assert announced(path) == {}
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_writer_on_another_machine_or_network_is_not_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock may be seen over a network file system, but its loopback is not ours."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(presence, "place", lambda: "another boot, another network")
        announce(path, FACTS)
        assert announced(path) == FACTS
    assert announced(path) == {}


def test_others_may_not_open_it(path: Path) -> None:
    """Whoever can open a file may hold its lock, and would make an old one look alive."""
    announce(path, FACTS)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"[]", b'"x"', b"{", b"\xff"])
def test_content_that_is_none(path: Path, content: bytes) -> None:
    """It says nothing, even while its writer lives."""
    announce(path, FACTS)
    path.write_bytes(content)
    assert announced(path) == {}


def test_a_pipe_in_its_place_keeps_nobody_waiting(path: Path) -> None:
    """It is no file that a process has written."""
    os.mkfifo(path)
    assert announced(path) == {}


def test_a_full_disk_leaves_what_was_there(path: Path) -> None:
    """The error is that of a full disk, and no half file and no descriptor stays."""
    announce(path, FACTS)
    count = len(os.listdir("/proc/self/fd"))
    with no_larger_than(8), pytest.raises(StorageFull):
        announce(path, FACTS)
    assert announced(path) == FACTS
    assert os.listdir(path.parent) == [path.name]
    assert len(os.listdir("/proc/self/fd")) == count


def test_it_is_read_and_taken_back_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A disk that has become read-only keeps the file, which is believed no more."""
    with small_disk(tmp_path / "disk", 1024 * 1024) as disk:
        if disk is None:
            pytest.skip("only root may mount")
        path = disk.folder / "process.json"
        held = announce(path, FACTS)
        mount = ["mount", "--bind", str(disk.folder), str(disk.folder)]
        subprocess.run(mount, check=True)
        try:
            again = ["mount", "-o", "remount,bind,ro", str(disk.folder)]
            subprocess.run(again, check=True)
            assert announced(path) == FACTS
            withdraw(path, held)
            assert path.exists()
            assert announced(path) == {}
        finally:
            subprocess.run(["umount", str(disk.folder)], check=True)
