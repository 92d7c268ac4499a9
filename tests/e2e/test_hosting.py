"""Where models run and with how much of the machine, through the command line and over HTTP."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import models
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, ask, wait_until, write_rows
from tests.e2e.test_code import one_number, write

GREEDY = """
import ctypes
import threading

import numpy as np


class Model:
    def load(self, path):
        self.thread = threading.get_ident()

    def predict(self, inputs):
        assert threading.get_ident() == self.thread
        megabytes = int(inputs["x"][0, 0])
        if megabytes < 0:
            # A library that does not look at what it was given.
            libc = ctypes.CDLL(None)
            libc.malloc.restype = ctypes.c_void_p
            libc.malloc.argtypes = [ctypes.c_size_t]
            room = libc.malloc(-megabytes * 1_000_000)
            ctypes.memset(room or 0, 1, -megabytes * 1_000_000)
        room = np.ones(max(0, megabytes) * 1_000_000, np.uint8)
        return {"y": 2 * inputs["x"]}
"""
HEAVY = """
import numpy as np


class Model:
    def load(self, path):
        self.room = np.ones(700_000_000, np.uint8)

    def predict(self, inputs):
        return {"y": 2 * inputs["x"]}
"""
TOGETHER = """
import threading


class Model:
    def load(self, path):
        # Each instance has a module of its own, so they meet in one that they share.
        self.meeting = threading.__dict__.setdefault("_meeting", threading.Barrier(2))
        self.thread = threading.get_ident()

    def predict(self, inputs):
        assert threading.get_ident() == self.thread
        # The push asks one at a time.
        if inputs["x"][0, 0] > 1:
            self.meeting.wait(20)
        return {"y": 2 * inputs["x"]}
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with two shared workers, a small model, and others that are code."""
    folder = tmp_path_factory.mktemp("hosting")
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text("engine: {shared_workers: 2}")
    with Server(home) as running:
        running.deploy_scaled(folder)
        for name, source in {"greedy": GREEDY, "heavy": HEAVY, "together": TOGETHER}.items():
            example = one_number(folder / f"{name}.json", 1.0)
            path = write(folder / name, source)
            running.push(path, name, "--trust-code", "--example", str(example))
        yield running


def refused(server: Server, *arguments: str) -> str:
    """Deploy in a way that is refused; returns the line that says why."""
    done = server.salver("deploy", *arguments)
    assert done.returncode == 1, done.stdout
    return done.stderr.decode()


def dedicated(server: Server) -> list[int]:
    """Return the pids of workers with one model that are no quarantine."""
    table = json.loads((server.home / "run" / "processes.json").read_text())["processes"]
    return [entry["pid"] for entry in table if entry["identity"].startswith("dedicated")]


def endpoint(server: Server, name: str) -> dict[str, Any]:
    """Return an endpoint as the list shows it."""
    (found,) = [item for item in server.json("get", "endpoints") if item["name"] == name]
    entry: dict[str, Any] = found
    return entry


def test_hosting_changes_under_load_and_no_request_fails(serving: Server) -> None:
    """Shared, dedicated, instances, threads, limits: what is asked for comes, callers see none."""
    steps: list[tuple[list[str], dict[str, object]]] = [
        (["--hosting", "dedicated"], {"hosting": "dedicated"}),
        (["--hosting", "dedicated", "--instances", "2"], {"instances": 2}),
        (["--instances", "2", "--threads", "2"], {"hosting": "shared", "threads": 2}),
        (["--memory-limit", "600MB"], {"hosting": "dedicated", "memory_limit_bytes": 600_000_000}),
        (["--provider", "cpu"], {"hosting": "shared", "provider": "cpu"}),
        ([], {"hosting": "shared", "instances": 1, "threads": 0, "memory_limit_bytes": 0}),
    ]
    with Load(serving.port, "scaled", connections=16) as load:
        for options, expected in steps:
            serving.ok("deploy", "scaled", *options)
            assert expected.items() <= endpoint(serving, "scaled").items()
    assert_unharmed(load)


def test_what_cannot_be_had_is_refused_and_changes_nothing(serving: Server) -> None:
    """Each error has its code and names what there is; the endpoint answers as before."""
    assert "hosting_refused" in refused(serving, "greedy", "--hosting", "shared")
    assert "hosting_refused" in refused(serving, "scaled", "--hosting", "shared", "--cpus", "1")
    assert "hosting_refused" in refused(serving, "scaled", "--cpus", "x")
    assert "hosting_refused" in refused(serving, "scaled", "--memory-limit", "1MB")
    for provider in ("cuda", "tensorrt"):
        line = refused(serving, "scaled", "--provider", provider)
        assert "resource_unavailable" in line
        assert "available here: cpu" in line
        assert endpoint(serving, "scaled")["state"] == "ready"
        assert ask(serving.port, "scaled", 3.0)[1]["outputs"][0]["data"] == [6.0]
    line = refused(serving, "scaled", "--cpus", "4000")
    assert "resource_unavailable" in line
    line = refused(serving, "scaled", "--gpu", "63")
    assert "GPU 63" in line
    assert endpoint(serving, "scaled")["state"] == "ready"
    assert ask(serving.port, "scaled", 3.0)[1]["outputs"][0]["data"] == [6.0]
    serving.ok("deploy", "scaled")
    assert endpoint(serving, "scaled")["reason"] == ""


def test_a_version_is_hosted_in_one_way(serving: Server) -> None:
    """A second endpoint of the version follows, and a wish against the first is a conflict."""
    serving.ok("deploy", "scaled", "--instances", "2")
    serving.ok("deploy", "scaled", "--endpoint", "second")
    assert endpoint(serving, "second")["instances"] == 2
    assert "[conflict]" in refused(serving, "scaled", "--endpoint", "second", "--instances", "3")
    serving.ok("undeploy", "second")
    serving.ok("deploy", "scaled")


def test_a_worker_keeps_to_its_cpus_and_tells_threads(serving: Server) -> None:
    """All threads of the process stay on the CPUs that it was given."""
    cpu = max(os.sched_getaffinity(0))
    serving.ok("deploy", "scaled", "--cpus", f"{cpu}-{cpu}", "--threads", "3", "--replicas", "2")
    for worker in endpoint(serving, "scaled")["workers"]:
        pid = serving.pid_of(worker)
        for thread in psutil.Process(pid).threads():
            assert os.sched_getaffinity(thread.id) == {cpu}
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert b"OMP_NUM_THREADS=3" in environment
    assert ask(serving.port, "scaled", 3.0)[1]["outputs"][0]["data"] == [6.0]
    serving.ok("deploy", "scaled")
    wait_until(lambda: not dedicated(serving), "the CPUs are free again")
    serving.ok("deploy", "scaled", "--cpus", "1", "--replicas", "2")
    pids = [serving.pid_of(worker) for worker in endpoint(serving, "scaled")["workers"]]
    taken = [next(iter(os.sched_getaffinity(pid or 0))) for pid in pids]
    assert len(set(taken)) == min(2, len(os.sched_getaffinity(0)))
    serving.ok("deploy", "scaled")


def test_a_model_over_its_memory_limit_hurts_itself_only(serving: Server) -> None:
    """Large requests get a code, a careless library takes its worker along; others notice none."""
    serving.ok("deploy", "greedy", "--memory-limit", "600MB")
    (worker,) = endpoint(serving, "greedy")["workers"]
    before = serving.pid_of(worker)
    with Load(serving.port, "scaled", connections=8) as load:
        assert ask(serving.port, "greedy", 100.0)[0] == 200
        status, document = ask(serving.port, "greedy", 900.0)
        assert (status, document["code"]) == (500, "memory_limit_exceeded")
        assert serving.pid_of(worker) == before
        status, document = ask(serving.port, "greedy", -900.0)
        assert (status, document["code"]) == (500, "worker_crashed")
        wait_until(lambda: ask(serving.port, "greedy", 100.0)[0] == 200, "its worker is back")
        assert serving.pid_of(worker) != before
    assert_unharmed(load)


def test_a_model_that_cannot_load_within_its_limit_says_so(serving: Server, tmp_path: Path) -> None:
    """Code and ONNX alike fail to deploy with the code, and are deployed with a higher limit."""
    assert "memory_limit_exceeded" in refused(serving, "heavy", "--memory-limit", "600MB")
    serving.ok("deploy", "heavy", "--memory-limit", "1.2GB")
    assert ask(serving.port, "heavy", 2.0)[1]["outputs"][0]["data"] == [4.0]
    serving.ok("undeploy", "heavy")
    side = 6000
    rows = write_rows(tmp_path / "rows.json", [[1.0] * side])
    serving.push(models.onnx_weights(1, side), "wide", "--example", str(rows))
    assert "memory_limit_exceeded" in refused(serving, "wide", "--memory-limit", "270MB")
    serving.ok("deploy", "wide", "--memory-limit", "500MB")
    serving.ok("undeploy", "wide")


def test_instances_of_code_run_at_the_same_time(serving: Server) -> None:
    """Each has its own object and thread; two that wait for one another both answer."""
    serving.ok("deploy", "together", "--instances", "2", "--max-batch-size", "1")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: ask(serving.port, "together", n), [2.0, 3.0, 4.0, 5.0]))
    assert [answer[1]["outputs"][0]["data"] for answer in answers] == [[4.0], [6.0], [8.0], [10.0]]
    (worker,) = endpoint(serving, "together")["workers"]
    shown = {entry["id"]: entry for entry in serving.json("get", "workers")}[worker]
    assert shown["variants"][0]["instances"] == 2
    serving.ok("undeploy", "together")


def test_models_are_spread_over_the_shared_workers(serving: Server, tmp_path: Path) -> None:
    """By size, and where they are they stay, over deploys and a restart of control."""
    for name, side in {"big": 5000, "m1": 1500, "m2": 1400, "m3": 1300}.items():
        rows = write_rows(tmp_path / "rows.json", [[1.0] * side])
        serving.push(models.onnx_weights(1, side), name, "--example", str(rows))
        serving.ok("deploy", name)
    (crowded,) = endpoint(serving, "big")["workers"]
    small = ("m1", "m2", "m3")
    placed = {name: endpoint(serving, name)["workers"] for name in small}
    (other,) = {"shared-0", "shared-1"} - {crowded}
    assert placed == {name: [other] for name in small}
    serving.kill("control")
    serving.ok("undeploy", "big")
    serving.ok("deploy", "scaled", "--endpoint", "another")
    assert {name: endpoint(serving, name)["workers"] for name in small} == placed
    for name in ("another", *small):
        serving.ok("undeploy", name)
