"""Limits of workers through control groups where this machine has them, and without.

What is expected depends on the machine: nothing is skipped.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from salver.observe.cgroup import group_prefix
from tests import groups
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, ask, wait_until
from tests.e2e.test_code import one_number, write

LIMIT_BYTES = 400_000_000
HOARDER = """
import mmap
import subprocess
import sys

import numpy as np


class Model:
    def load(self, path):
        pass

    def predict(self, inputs):
        megabytes = int(inputs["x"][0, 0])
        if inputs["x"][0, 0] == 0.5:
            # A helper that outlives whoever started it.
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        if megabytes < 0:
            np.ones(-megabytes * 1_000_000, np.uint8)
        if megabytes > 0:
            # Shared memory, which no limit of a process counts.
            with mmap.mmap(-1, megabytes * 1_000_000) as room:
                for _ in range(megabytes):
                    room.write(bytes(1_000_000))
        return {"y": 2 * inputs["x"]}
"""
SPINNER = """
import time


class Model:
    def load(self, path):
        pass

    def predict(self, inputs):
        end = time.process_time() + float(inputs["x"][0, 0])
        while time.process_time() < end:
            pass
        return {"y": 2 * inputs["x"]}
"""
GREEDY = """
import mmap


class Model:
    def load(self, path):
        self.room = mmap.mmap(-1, 600_000_000)
        for _ in range(600):
            self.room.write(bytes(1_000_000))

    def predict(self, inputs):
        return {"y": 2 * inputs["x"]}
"""
HAS_MEMORY, HAS_CPU = groups.has_v1_memory(), groups.has_v1_cpu()
KILLED = "over its memory limit, killed by the kernel"


def serve(folder: Path, limits: str) -> Server:
    """Return a server with this setting, with a model in memory of its own, that is not up yet."""
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text(
        f"supervisor: {{worker_limits: {limits}, backoff_max_s: 0.2, stop_timeout_s: 3.0}}\n"
    )
    return Server(home)


def push(server: Server, folder: Path, name: str, source: str) -> None:
    """Push code."""
    example = one_number(folder / f"{name}.json", 0.0)
    server.push(write(folder / name, source), name, "--trust-code", "--example", str(example))


@pytest.fixture(scope="module", params=["auto", "rlimit"])
def serving(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Give a server that keeps limits as it can, and one that keeps them the plain way."""
    folder = tmp_path_factory.mktemp("groups")
    server = serve(folder, str(request.param))
    try:
        with server as running:
            push(running, folder, "hoarder", HOARDER)
            push(running, folder, "spinner", SPINNER)
            running.deploy_scaled(folder)
            yield running
        assert groups.named(group_prefix(server.home)) == []
    finally:
        groups.remove(group_prefix(server.home))


def worker_of(server: Server, endpoint: str, kind: str = "dedicated") -> dict[str, Any]:
    """Return the row of the only worker of an endpoint."""
    (row,) = [
        row
        for row in server.json("get", "workers")
        if row["kind"] == kind and row["models"] == [f"{endpoint}:1"]
    ]
    found: dict[str, Any] = row
    return found


def is_grouped(server: Server) -> bool:
    """Tell whether the server keeps limits in groups, and that it does so where it can."""
    told = str(server.json("status")["worker_limits"])
    asked = "auto" in (server.home / "salver.yaml").read_text()
    if not asked:
        assert told == "rlimit (supervisor.worker_limits says so)"
    elif HAS_MEMORY:
        assert told.startswith("cgroup v")
    elif not told.startswith("cgroup v2"):
        assert told.startswith("rlimit (cgroup v"), told
    return told.startswith("cgroup")


def test_memory_that_a_process_limit_does_not_count(serving: Server) -> None:
    """In a group the kernel ends the worker, and everybody can tell why; others notice nothing.

    The plain limit lets it pass, and says nowhere that it was kept.
    """
    grouped = is_grouped(serving)
    serving.ok("deploy", "hoarder", "--memory-limit", str(LIMIT_BYTES))
    row = worker_of(serving, "hoarder")
    way = serving.json("status")["worker_limits"] if grouped else "rlimit"
    assert (row["limits_kept_by"], row["last_end"]) == (way, "")
    with Load(serving.port, "scaled", connections=4) as load:
        assert ask(serving.port, "hoarder", 50.0)[0] == 200
        status, document = ask(serving.port, "hoarder", 600.0)
        if not grouped:
            assert status == 200
            assert serving.pid_of(row["id"]) == row["pid"]
            return
        assert (status, document["code"]) == (500, "memory_limit_exceeded"), document
        assert f"the {LIMIT_BYTES} bytes of --memory-limit, and the kernel" in document["error"]
        wait_until(lambda: ask(serving.port, "hoarder", 50.0)[0] == 200, "its worker is back")
    assert_unharmed(load)
    after = worker_of(serving, "hoarder")
    assert (after["restarts"], after["last_end"]) == (1, KILLED)
    assert after["pid"] != row["pid"]
    assert worker_of(serving, "hoarder", "quarantine")["last_end"] == KILLED
    log = (serving.home / "logs" / "supervisor.log").read_text()
    assert f"{row['id']} ended: {KILLED}" in log


def test_memory_that_a_model_takes_as_it_loads(serving: Server, tmp_path: Path) -> None:
    """Who deploys it is told that the kernel killed it for that, and what helps.

    Where nobody counts that memory it is deployed.
    """
    push(serving, tmp_path, "greedy", GREEDY)
    done = serving.salver("deploy", "greedy", "--memory-limit", str(LIMIT_BYTES))
    text = done.stderr.decode()
    if is_grouped(serving):
        assert (done.returncode, "memory_limit_exceeded" in text) == (1, True), text
        assert KILLED in text
        assert "give it a higher --memory-limit" in text
        serving.ok("deploy", "greedy", "--memory-limit", str(4 * LIMIT_BYTES))
    else:
        assert done.returncode == 0, text
    assert ask(serving.port, "greedy", 1.0)[0] == 200
    serving.ok("undeploy", "greedy")


def test_memory_that_a_process_asks_for_is_refused_either_way(serving: Server) -> None:
    """An allocation over the limit fails in good order, and the worker lives."""
    serving.ok("deploy", "hoarder", "--memory-limit", str(LIMIT_BYTES))
    pid = worker_of(serving, "hoarder")["pid"]
    status, document = ask(serving.port, "hoarder", -900.0)
    assert (status, document["code"]) == (500, "memory_limit_exceeded")
    assert ask(serving.port, "hoarder", 1.0)[0] == 200
    assert serving.pid_of(worker_of(serving, "hoarder")["id"]) == pid


def test_another_death_is_not_taken_for_one_of_memory(serving: Server) -> None:
    """A worker in a group that somebody kills has died of that."""
    serving.ok("deploy", "hoarder", "--memory-limit", str(LIMIT_BYTES))
    row = worker_of(serving, "hoarder")
    os.kill(row["pid"], signal.SIGKILL)
    wait_until(lambda: worker_of(serving, "hoarder")["last_end"] == "SIGKILL", "it is told")
    wait_until(lambda: ask(serving.port, "hoarder", 1.0)[0] == 200, "its worker is back")


def test_what_a_worker_starts_goes_with_its_group(serving: Server) -> None:
    """Helpers of a model's code are in the group, and are gone when the worker is."""
    serving.ok("deploy", "hoarder", "--memory-limit", str(LIMIT_BYTES))
    wait_until(lambda: ask(serving.port, "hoarder", 1.0)[0] == 200, "its worker is there")
    assert ask(serving.port, "hoarder", 0.5)[0] == 200
    pid = worker_of(serving, "hoarder")["pid"]
    (helper,) = psutil.Process(pid).children()
    prefix = group_prefix(serving.home)
    names = {name for one in (pid, helper.pid) for name in groups.groups_of(one).values()}
    own = {name for name in names if name.startswith(f"{prefix}dedicated-hoarder")}
    serving.ok("undeploy", "hoarder")
    if is_grouped(serving):
        assert len(own) == 1
        wait_until(lambda: not groups.named(own.pop() if own else prefix + "x"), "no group is left")
        wait_until(lambda: not helper.is_running() or helper.status() == "zombie", "none is left")
    else:
        assert own == set()
        helper.kill()


def test_part_of_a_cpu(serving: Server) -> None:
    """The kernel holds the worker back where there are groups; else it has one CPU for itself."""
    serving.ok("deploy", "spinner", "--cpus", "0.1")
    row = worker_of(serving, "spinner")
    assert row["cpus"] == "0.1"
    assert len(os.sched_getaffinity(row["pid"])) == 1
    if not (is_grouped(serving) and (HAS_CPU or "v2" in row["limits_kept_by"])):
        assert row["limits_kept_by"] == "rlimit"
        assert ask(serving.port, "spinner", 0.3)[0] == 200
        log = (serving.home / "logs" / "supervisor.log").read_text()
        assert log.count("limits of workers are kept by each process (RLIMIT)") == 1
        return
    names = groups.groups_of(row["pid"])
    own = next(name for name in names.values() if name.startswith(group_prefix(serving.home)))
    (folder,) = groups.named(own)
    quota = {"cpu.max": "10000 100000", "cpu.cfs_quota_us": "10000"}
    files = [name for name in quota if (folder / name).exists()]
    assert [(folder / name).read_text().strip() for name in files] == [quota[files[0]]]

    def was_held_back() -> bool:
        # So little that a busy machine gives more than that.
        assert ask(serving.port, "spinner", 0.1)[0] == 200
        facts = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
        return int(facts["nr_throttled"]) > 0

    wait_until(was_held_back, "it was held back")


def lives(process: psutil.Process) -> bool:
    """Tell whether a process has not ended, whoever has still to hear of its end."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def test_a_killed_supervisor_leaves_groups_that_the_next_one_removes(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Those of its own home; the workers in them get the time that they get to stop."""
    # The name of the test would be too long for the sockets.
    folder = tmp_path_factory.mktemp("left")
    server = serve(folder, "auto")
    prefix = group_prefix(server.home)
    try:
        with server as running:
            push(running, folder, "hoarder", HOARDER)
            running.ok("deploy", "hoarder", "--memory-limit", str(LIMIT_BYTES))
            grouped = is_grouped(running)
            before = {path.name for path in groups.named(prefix)}
            assert bool(before) is grouped
            assert ask(running.port, "hoarder", 0.5)[0] == 200
            helpers = psutil.Process(worker_of(running, "hoarder")["pid"]).children()
            pid = running.supervisor_pid()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not psutil.pid_exists(pid), "the supervisor is gone")
            assert before <= {path.name for path in groups.named(prefix)}
            running.up()
            wait_until(lambda: ask(running.port, "hoarder", 1.0)[0] == 200, "it serves again")
            wait_until(
                lambda: not before & {path.name for path in groups.named(prefix)},
                "the old groups are gone",
            )
            if grouped:
                wait_until(lambda: not any(map(lives, helpers)), "what the worker started is gone")
            for helper in helpers:
                if helper.is_running():
                    helper.kill()
        assert groups.named(prefix) == []
    finally:
        groups.remove(prefix)
