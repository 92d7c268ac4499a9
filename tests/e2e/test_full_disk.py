"""A disk without any room: what is deployed goes on to be served, also by processes that die."""

import mmap
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil

from tests import models
from tests.disk import SmallDisk, no_larger_than, small_disk
from tests.e2e.load import Load
from tests.e2e.server import Server, ask, run, wait_until

DISK_BYTES = 16 * 1024 * 1024
PROCESSES = ("shared-0", "gateway-0", "control")
LOGS = ("supervisor", *PROCESSES, "quarantine-0")


@contextmanager
def full_disk(home: Path) -> Iterator[SmallDisk | None]:
    """Give a home that can be filled; where nothing may be mounted, one whose logs are full."""
    with small_disk(home, DISK_BYTES) as disk:
        if disk is None:
            (home / "logs").mkdir()
            for name in LOGS:
                (home / "logs" / f"{name}.log").symlink_to("/dev/full")
        yield disk


def pid_of(server: Server, identity: str) -> int | None:
    """Return a child's pid as the system knows it: the table of processes needs room, too."""
    words = {"control": "salver.control"}.get(identity, identity)
    supervisor = server.supervisor_pid()
    assert supervisor is not None
    for child in psutil.Process(supervisor).children():
        try:
            if words in child.cmdline():
                return child.pid
        except psutil.NoSuchProcess:
            continue
    return None


def kill(server: Server, identity: str) -> None:
    """kill -9 one process and wait for its successor."""
    pid = pid_of(server, identity)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid_of(server, identity) not in (None, pid), f"{identity} restarted")


def answers(server: Server) -> bool:
    """Tell whether the endpoint answers on a new connection."""
    try:
        return ask(server.port, "scaled", 3.0)[0] == 200
    except OSError:
        return False


def answered(load: Load, goal: int) -> bool:
    """Tell whether so many requests were answered."""
    return load.answered >= goal


def pushed(server: Server) -> subprocess.CompletedProcess[bytes]:
    """Push a small model."""
    return server.salver("push", str(models.xgboost_iris("json")), "--name", "iris")


def fill_pages(logs: Path) -> None:
    """Fill the page that each log has begun, which has room for some lines on the fullest disk."""
    for path in logs.glob("*.log"):
        log = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            with suppress(OSError):
                while os.write(log, b"\n" * mmap.PAGESIZE):
                    pass
        finally:
            os.close(log)


def fill(disk: SmallDisk) -> None:
    """Leave no room on the disk, nor in the pages of logs that are there already."""
    disk.fill()
    fill_pages(disk.folder / "logs")


def ends_known(home: Path) -> int:
    """Return how many ends of processes the supervisor's log names, or may have lost by its words.

    What is deleted or replaced on a full disk makes room again, so no line is sure to be lost.
    """
    log = (home / "logs" / "supervisor.log").read_text()
    lost = re.findall(r"(\d+) lines before this one could not be written", log)
    return log.count(" ended: ") + sum(map(int, lost))


def test_what_dies_on_a_full_disk_comes_back(home: Path, tmp_path: Path) -> None:
    """Worker, gateway and control are killed in turn, and each serves again; pushes are refused.

    When there is room again pushes are taken, and what the log lacks it says that it lacks.
    """
    with full_disk(home) as disk, Server(home) as server:
        server.deploy_scaled(tmp_path)
        if disk is not None:
            fill(disk)
        with Load(server.port, "scaled", connections=8) as load:
            if disk is not None:
                done = pushed(server)
                assert done.returncode == 1
                assert b"[storage_full]" in done.stderr
            for victim in PROCESSES:
                if disk is not None:
                    fill(disk)  # a process that died, or a file that was replaced, has left room
                kill(server, victim)
                goal = load.answered + 50
                wait_until(partial(answered, load, goal), f"answers after {victim} died")
                wait_until(lambda: answers(server), f"new connections after {victim} died")
            wait_until(lambda: server.salver("status").returncode == 0, "control answers")
        assert load.wrong == 0
        assert set(load.failed) <= {"503 not_ready retry-after"}
        assert load.broken <= 8
        if disk is None:
            return
        disk.free()
        wait_until(lambda: pushed(server).returncode == 0, "pushes are taken again")
        kill(server, "shared-0")
        server.ok("deploy", "iris")
        assert server.pid_of("shared-0") == pid_of(server, "shared-0")
        assert ends_known(home) >= len((*PROCESSES, "shared-0"))


def counted(server: Server) -> float:
    """Return the requests that were answered, as monitoring sees them."""
    return server.metric("salver_requests_total", endpoint="scaled", code="ok") or 0.0


def age_s(server: Server) -> float:
    """Return how old the counters are that monitoring sees."""
    found = server.metric("salver_counts_age_seconds")
    assert found is not None
    return found


def test_monitoring_goes_on_on_a_full_disk(home: Path, tmp_path: Path) -> None:
    """Counters are those that were written down last, and none falls, also when control dies."""
    with full_disk(home) as disk, Server(home) as server:
        server.deploy_scaled(tmp_path)
        with Load(server.port, "scaled", connections=4) as load:
            wait_until(lambda: counted(server) > 0, "counts")
            if disk is not None:
                disk.fill()
            before = counted(server)
            goal = load.answered + 50
            wait_until(partial(answered, load, goal), "answers")
            if disk is not None:
                wait_until(lambda: age_s(server) > 1.0, "counts grow old")
            assert counted(server) >= before
            assert (server.metric("salver_process_resident_bytes", identity="shared-0") or 0) > 0
            kill(server, "control")
            wait_until(lambda: server.salver("status").returncode == 0, "control answers")
            assert counted(server) >= before
            if disk is not None:
                disk.free()
            wait_until(lambda: counted(server) >= goal, "counts are written down again")


def test_a_server_without_any_room_does_not_start(home: Path) -> None:
    """`salver up` needs a lock and a few files, and says so."""
    with no_larger_than(0):
        done = run("up", "--home", str(home), "--http-port", "0", "--control-port", "0")
    assert done.returncode == 1
    assert b"[storage_full]" in done.stderr
