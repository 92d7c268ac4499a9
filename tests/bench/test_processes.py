"""Groups of processes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from bench.failure import BenchError
from bench.processes import Group

CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_stop_ends_children_with_a_session_of_their_own(tmp_path: Path) -> None:
    """A supervisor's children are counted and ended although they left its session."""
    log = tmp_path / "log"
    group = Group([sys.executable, "-c", CHILD], log)
    group.start()
    deadline = time.monotonic() + 20
    while not log.read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.02)
    child = int(log.read_text())
    memory = group.memory()
    assert child in group.pids()
    assert memory.processes == 2
    assert 0 < memory.pss_kib <= memory.rss_kib
    group.stop()
    assert not Path(f"/proc/{child}").exists() or b"Z" in _state(child)


def _state(pid: int) -> bytes:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]


def test_check_shows_why_a_command_ended(tmp_path: Path) -> None:
    """The end of the log is in the error."""
    group = Group([sys.executable, "-c", "import sys; sys.exit('no port left')"], tmp_path / "log")
    group.start()
    deadline = time.monotonic() + 20
    with pytest.raises(BenchError, match="no port left"):
        while time.monotonic() < deadline:
            group.check()
            time.sleep(0.02)
    group.stop()
    assert os.getpid() not in group.pids()
