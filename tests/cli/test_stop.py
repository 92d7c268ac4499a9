"""Whom `salver stop` takes for the server of a home."""

import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from salver.cli.stop import _is_supervisor, runs
from salver.core.presence import announce
from tests.running import running

_PATIENCE_S = 60.0
_SLEEPS = "import time; print(flush=True); time.sleep(600)"


def process(*words: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run a process that has these words and does nothing."""
    # They are there for others only once it runs.
    return running([sys.executable, "-c", _SLEEPS, *words])


def supervisor(home: Path) -> list[str]:
    """Return the words of a supervisor, as `salver up` gives them."""
    return ["salver.scale.local", "--home", str(home), "--http-port", "0"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home beside a folder, another home, and a link to it."""
    for name in ("x", "h", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "h")
    return tmp_path / "h"


@pytest.mark.parametrize("started", ["h", "x/../h", "link", "x/../link"])
def test_a_home_is_recognised_however_it_was_written(
    home: Path, started: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dots and links make no difference, neither at the start nor at the end."""
    top = home.parent
    monkeypatch.chdir(top / "x")
    with process(*supervisor(top / started)) as child:
        for asked in (home, top / "link", top / "x" / ".." / "h", Path("../h"), Path("../link")):
            assert _is_supervisor(child.pid, asked), asked
        for another in (top / "other", top, Path(), top / "missing"):
            assert not _is_supervisor(child.pid, another), another


def test_other_processes_are_no_server(home: Path) -> None:
    """Neither one that only names the folder, nor a server that names none."""
    with process("--home", str(home)) as child:
        assert not _is_supervisor(child.pid, home)
    with process("salver.scale.local") as child:
        assert not _is_supervisor(child.pid, home)


def test_a_server_that_has_ended_is_none(home: Path) -> None:
    """One that nobody has waited for yet is gone as well."""
    with process(*supervisor(home)) as child:
        assert _is_supervisor(child.pid, home)
        child.kill()
        deadline = time.monotonic() + _PATIENCE_S
        while _is_supervisor(child.pid, home):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.wait()
        assert not _is_supervisor(child.pid, home)


def test_a_server_counts_while_it_holds_its_file(home: Path) -> None:
    """One that was killed left a pid, which may be that of the next one, still starting, by now."""
    (home / "run").mkdir()
    with process(*supervisor(home)) as child:
        held = announce(home / "run" / "supervisor.json", {"pid": child.pid})
        assert runs(home)
        os.close(held)
        assert not runs(home)


def test_a_server_whose_pid_means_another_process_here(home: Path) -> None:
    """As in a container with processes of its own: nobody else is ended in its place."""
    (home / "run").mkdir()
    with process("--home", str(home)) as child:
        announce(home / "run" / "supervisor.json", {"pid": child.pid})
        assert not runs(home)
