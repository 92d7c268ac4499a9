"""Models that leave while nobody asks for them, and come back for the first request."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.e2e.server import Server, ask, wait_until

WORKER = "dedicated-coded-1-0"
SOURCE = """
import os
import time


class Model:
    def load(self, path):
        time.sleep(float(os.environ.get("COLD_TEST_LOAD_S", "0.2")))

    def predict(self, inputs):
        return {"y": 2 * inputs["x"]}
"""
STREAM = """
import numpy as np


class Model:
    def predict_stream(self, inputs):
        for index in range(int(inputs["x"][0, 0])):
            yield {"y": np.array([[index]], np.int64)}
"""
QUICK = """
engine: {{idle_s: 0.05}}
supervisor: {{warm_processes: {warm}}}
"""


@pytest.fixture(scope="module", params=[1, 0], ids=["forked", "anew"])
def cold(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> (
    Iterator[Server]
):  # fmt: skip
    """Give a server with code, streaming code and a shared model that all leave at once."""
    folder = tmp_path_factory.mktemp("cold")
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text(QUICK.format(warm=request.param))
    with Server(home) as running:
        for name, source in (("coded", SOURCE), ("counting", STREAM)):
            push_code(running, folder / name, name, source)
            running.ok("deploy", name, "--min-replicas", "0")
        running.push_scaled(folder)
        running.ok("deploy", "scaled", "--min-replicas", "0")
        yield running


def push_code(server: Server, folder: Path, name: str, source: str) -> None:
    """Push a model that is code for one number."""
    folder.mkdir()
    (folder / "model.py").write_text(dedent(source))
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [2.0]}
    example = folder.with_suffix(".json")
    example.write_text(json.dumps({"inputs": [tensor]}))
    server.push(folder, name, "--example", str(example), "--trust-code")


def asleep(server: Server, worker: str = WORKER) -> None:
    """Wait until a worker has no process."""
    wait_until(lambda: server.pid_of(worker) is None, f"{worker} is asleep")


def starts(server: Server) -> float:
    """Return how often requests had the process of the code started."""
    return server.metric("salver_cold_starts_total", variant="coded:1", waited_for="process") or 0


def has_started(server: Server, count: float) -> bool:
    """Tell whether it was started so often."""
    return starts(server) == count


def descendants(pid: int) -> set[int]:
    """Return the children of a process and theirs."""
    found: set[int] = set()
    # Each process and thread may vanish while it is looked at.
    with suppress(OSError):
        for task in [*Path(f"/proc/{pid}/task").iterdir()]:
            with suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    found |= {child, *descendants(child)}
    return found


def test_a_cold_request_is_answered(cold: Server) -> None:
    """No process runs until a request comes, which is answered; nobody calls that a restart."""
    first = starts(cold)
    for count, value in ((1, 1.0), (2, 3.0)):
        asleep(cold)
        status, document = ask(cold.port, "coded", value)
        assert (status, document["outputs"][0]["data"]) == (200, [2 * value])
        wait_until(partial(has_started, cold, first + count), "the start is counted")
    assert cold.metric("salver_process_restarts_total", identity=WORKER) == 0
    (endpoint,) = [e for e in cold.json("get", "endpoints") if e["name"] == "coded"]
    assert endpoint["state"] == "ready"


def test_many_cold_requests_start_one_process(cold: Server) -> None:
    """Fifty requests that come while no process runs are all answered by the one they start."""
    ready = threading.Barrier(50)

    def call(number: int) -> tuple[int, Any]:
        ready.wait(60)
        return ask(cold.port, "coded", float(number))

    asleep(cold)
    before = starts(cold)
    with ThreadPoolExecutor(50) as callers:
        answers = [*callers.map(call, range(50))]
    assert [a[1]["outputs"][0]["data"][0] for a in answers] == [2.0 * n for n in range(50)]
    wait_until(lambda: starts(cold) > before, "the start is counted")
    assert starts(cold) == before + 1


def test_cold_requests_are_told_apart(cold: Server) -> None:
    """What waited for its model is counted with its time, so that the share of it is known."""
    asleep(cold)
    name = "salver_cold_request_seconds_count"
    before = cold.gateway_metric(name, endpoint="coded") or 0
    assert ask(cold.port, "coded", 1.0)[0] == 200
    wait_until(
        lambda: cold.gateway_metric(name, endpoint="coded") == before + 1, "one more was cold"
    )


def test_a_worker_killed_while_it_starts_is_started_again(cold: Server) -> None:
    """kill -9 in the middle of a cold start delays the request and fails nothing."""
    asleep(cold)
    with ThreadPoolExecutor(1) as callers:
        answer = callers.submit(ask, cold.port, "coded", 4.0)
        wait_until(lambda: cold.pid_of(WORKER) is not None, "a process starts")
        pid = cold.pid_of(WORKER)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        status, document = answer.result()
    assert (status, document["outputs"][0]["data"]) == (200, [8.0])


def test_a_request_in_the_moment_of_leaving_is_answered(cold: Server) -> None:
    """However requests fall together with the worker's leaving, each is answered."""
    before = starts(cold)
    failed: list[object] = []
    over = threading.Event()

    def call(seed: int) -> None:
        pauses = random.Random(seed)
        while not over.is_set():
            status, document = ask(cold.port, "coded", float(seed))
            if status != 200 or document["outputs"][0]["data"] != [2.0 * seed]:
                failed.append(document)
            time.sleep(pauses.uniform(0.0, 0.4))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: starts(cold) >= before + 8, "eight starts")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed


def test_a_stream_waits_for_its_model(cold: Server) -> None:
    """A request for a stream whose process does not run gets every chunk."""
    asleep(cold, "dedicated-counting-1-0")
    status, document = ask(cold.port, "counting", 3.0)
    assert status == 200
    assert document["outputs"][0]["data"] == [0, 1, 2]


def test_a_shared_model_leaves_memory_and_comes_back(cold: Server) -> None:
    """In a shared worker the model alone leaves; the worker stays and loads it again."""

    def is_out() -> bool:
        rows = {row["id"]: row for row in cold.json("get", "workers")}
        states = {item["variant"]: item["state"] for item in rows["shared-0"]["variants"]}
        return bool(states["scaled:1"] == "evicted")

    pid = cold.pid_of("shared-0")
    for _ in range(2):
        wait_until(is_out, "the model has left")
        status, document = ask(cold.port, "scaled", 5.0)
        assert (status, document["outputs"][0]["data"]) == (200, [10.0])
    assert cold.pid_of("shared-0") == pid
    counted = partial(
        cold.metric, "salver_cold_starts_total", variant="scaled:1", waited_for="model"
    )
    wait_until(lambda: bool(counted()), "the cold start is counted")


def test_control_is_not_needed(cold: Server) -> None:
    """A request wakes its model while control stands still."""
    asleep(cold)
    control = cold.pid_of("control")
    assert control is not None
    os.kill(control, signal.SIGSTOP)
    try:
        status, _ = ask(cold.port, "coded", 1.0)
    finally:
        os.kill(control, signal.SIGCONT)
    assert status == 200


def test_a_load_that_fails_is_told_at_once(cold: Server) -> None:
    """Who waits for a model that cannot be loaded gets the load's error; later ones are served."""
    asleep(cold)
    source = dedent(SOURCE).encode()
    blobs = [
        path for path in (cold.home / "blobs").rglob("*")
        if path.is_file() and path.read_bytes() == source
    ]  # fmt: skip
    (blob,) = blobs
    blob.write_bytes(source[:-1])
    try:
        status, document = ask(cold.port, "coded", 1.0)
    finally:
        blob.write_bytes(source)
    assert status >= 500
    assert "not those that were pushed" in document["error"]
    # The breaker that the failed loads have opened lets a few through before it closes.
    wait_until(
        lambda: all(ask(cold.port, "coded", 1.0)[0] == 200 for _ in range(8)), "it answers again"
    )


@pytest.mark.parametrize("cold", [1], ids=["forked"], indirect=True)
def test_without_its_zygote_a_worker_starts_anyway(cold: Server) -> None:
    """kill -9 of the zygote and of what it had forked harms no request; another one follows."""
    zygote, supervisor = cold.pid_of("zygote"), cold.supervisor_pid()
    assert zygote is not None
    assert supervisor is not None
    asleep(cold)
    known = {cold.pid_of(row["id"]) for row in cold.json("get", "workers")}
    known |= {cold.pid_of(name) for name in ("gateway-0", "control")}
    for pid in (zygote, *(descendants(supervisor) - known - {zygote})):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert ask(cold.port, "coded", 2.0)[0] == 200
    wait_until(lambda: cold.pid_of("zygote") not in (None, zygote), "another zygote")


def test_nothing_is_left_when_the_supervisor_is_killed(cold: Server) -> None:
    """kill -9 of the supervisor ends the zygote, what it forked, and every worker."""
    assert ask(cold.port, "coded", 2.0)[0] == 200
    supervisor = cold.supervisor_pid()
    assert supervisor is not None
    running = descendants(supervisor)
    assert len(running) >= 4
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running), "all ended")
    cold.up()
    assert ask(cold.port, "coded", 2.0)[0] == 200
