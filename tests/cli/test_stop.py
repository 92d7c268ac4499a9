"""Whom `salver stop` takes for the server of a home."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from salver.cli.stop import _is_supervisor, runs
from salver.core.presence import announce

_PATIENCE_S = 60.0
_SLEEPS = "import time; print(flush=True); time.sleep(600)"


@contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that has these words and does nothing."""
    command = [sys.executable, "-c", _SLEEPS, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        try:
            # Its words are there for others only once it runs.
            running.stdout.readline()
            yield running
        finally:
            running.kill()


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
    with process(*supervisor(top / started)) as running:
        for asked in (home, top / "link", top / "x" / ".." / "h", Path("../h"), Path("../link")):
            assert _is_supervisor(running.pid, asked), asked
        for another in (top / "other", top, Path(), top / "missing"):
            assert not _is_supervisor(running.pid, another), another


def test_other_processes_are_no_server(home: Path) -> None:
    """Neither one that only names the folder, nor a server that names none."""
    with process("--home", str(home)) as running:
        assert not _is_supervisor(running.pid, home)
    with process("salver.scale.local") as running:
        assert not _is_supervisor(running.pid, home)


def test_a_server_that_has_ended_is_none(home: Path) -> None:
    """One that nobody has waited for yet is gone as well."""
    with process(*supervisor(home)) as running:
        assert _is_supervisor(running.pid, home)
        running.kill()
        deadline = time.monotonic() + _PATIENCE_S
        while _is_supervisor(running.pid, home):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.wait()
        assert not _is_supervisor(running.pid, home)


def test_a_server_counts_while_it_holds_its_file(home: Path) -> None:
    """One that was killed left a pid, which may be that of the next one, still starting, by now."""
    (home / "run").mkdir()
    with process(*supervisor(home)) as running:
        held = announce(home / "run" / "supervisor.json", {"pid": running.pid})
        assert runs(home)
        os.close(held)
        assert not runs(home)


def test_a_server_whose_pid_means_another_process_here(home: Path) -> None:
    """As in a container with processes of its own: nobody else is ended in its place."""
    (home / "run").mkdir()
    with process("--home", str(home)) as running:
        announce(home / "run" / "supervisor.json", {"pid": running.pid})
        assert not runs(home)
