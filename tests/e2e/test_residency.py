"""More models than fit, through the command line and over HTTP."""

import http.client
import json
import random
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import models
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, wait_until, write_rows

SIDE = 2000
MODELS = 6
BUDGET = 150_000_000


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with six deployed models of 16 MB each, of which about four fit."""
    home = tmp_path_factory.mktemp("home")
    (home / "salver.yaml").write_text(f"engine: {{memory_budget_bytes: {BUDGET}}}")
    rows = write_rows(home / "rows.json", [[1.0] * SIDE])
    with Server(home) as server:
        for index in range(MODELS):
            model = models.onnx_weights(index + 1, SIDE)
            server.push(model, f"m{index}", "--example", str(rows))
            server.ok("deploy", f"m{index}", *(["--pin"] if index == 0 else []))
        yield server


def ask(server: Server, index: int) -> list[float]:
    """Ask a model and return its row; it must answer."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, SIDE], "data": [1.0] * SIDE}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = json.dumps({"inputs": [tensor]})
    connection.request("POST", f"/v2/models/m{index}/infer", body)
    response = connection.getresponse()
    document = json.loads(response.read())
    connection.close()
    assert response.status == 200, document
    row: list[float] = document["outputs"][0]["data"]
    return row


def test_all_that_is_deployed_answers(crowded: Server) -> None:
    """Whatever is in memory, every model answers its own, and memory keeps within the budget.

    Also in the moments in which a file is read, which takes more than the model does afterwards.
    """
    chance = random.Random(3)
    pid = crowded.pid_of("shared-0")
    assert pid is not None
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    for _ in range(40):
        index = chance.randrange(MODELS)
        assert ask(crowded, index) == [float(index + 1)] * SIDE
        assert psutil.Process(pid).memory_info().rss <= BUDGET * 1.1
    assert most_bytes(pid) <= BUDGET * 1.1


def test_what_is_out_of_memory_is_ready(crowded: Server) -> None:
    """Ready means that it can answer: for the ready call, the index, and the list of endpoints."""
    # A worker reports once a second; what it reported last may be from before the last answer.
    wait_until(
        lambda: set(states_of(shared(crowded)).values()) == {"ready", "evicted"}, "all has settled"
    )
    worker = shared(crowded)
    states = states_of(worker)
    assert worker["budget_bytes"] == BUDGET
    assert states["m0:1"] == "ready"
    assert 1 <= worker["in_memory"] < MODELS
    url = crowded.state()["http_url"]
    for index in range(MODELS):
        with urllib.request.urlopen(f"{url}/v2/models/m{index}/ready", timeout=60) as answer:
            assert answer.status == 200
    request = urllib.request.Request(f"{url}/v2/repository/index", b"{}", method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert {entry["state"] for entry in json.load(answer)} == {"READY"}
    endpoints = {item["name"]: item for item in crowded.json("get", "endpoints")}
    assert {item["state"] for item in endpoints.values()} == {"ready"}
    assert endpoints["m0"]["pinned"]
    assert endpoints["m0"]["in_memory"] == 1
    assert endpoints["m0"]["resident_bytes"] > 4 * SIDE * SIDE
    assert sum(item["in_memory"] for item in endpoints.values()) < MODELS


def test_measured_sizes_are_kept_and_survive_the_worker(crowded: Server) -> None:
    """The registry knows what each model took; a restarted worker need not load all to know."""
    wait_until(
        lambda: all(m["versions"][0]["memory_bytes"] for m in crowded.json("get", "models")),
        "sizes are known",
    )
    for model in crowded.json("get", "models"):
        assert 4 * SIDE * SIDE <= model["versions"][0]["memory_bytes"] < 12 * SIDE * SIDE
    crowded.kill("shared-0")
    wait_until(
        lambda: (
            [w["state"] for w in crowded.json("get", "workers") if w["id"] == "shared-0"]
            == ["ready"]
        ),
        "the worker is back",
    )
    for index in range(MODELS):
        assert ask(crowded, index) == [float(index + 1)] * SIDE
    wait_until(lambda: bool(crowded.metric("salver_model_evictions_total")), "evictions counted")
    assert crowded.metric("salver_model_misses_total")


def test_a_model_that_never_fits_is_not_deployed(crowded: Server, tmp_path: Path) -> None:
    """The deploy fails with a code, and the others go on."""
    side = 6000
    rows = write_rows(tmp_path / "rows.json", [[1.0] * side])
    crowded.push(models.onnx_weights(1, side), "huge", "--example", str(rows))
    done = crowded.salver("deploy", "huge")
    assert done.returncode == 1
    assert b"memory_budget_exceeded" in done.stderr
    crowded.ok("undeploy", "huge")
    assert ask(crowded, 1) == [2.0] * SIDE


def test_a_worn_worker_is_replaced_and_no_request_fails(home: Path, tmp_path: Path) -> None:
    """A worker that holds more than its models explain gets a successor; callers notice nothing."""
    home.mkdir()
    engine = "memory_budget_bytes: 1000000000, worn_slack_bytes: -1000000000, worn_after_s: 0.5"
    (home / "salver.yaml").write_text(f"engine: {{{engine}}}")
    with Server(home) as server:
        server.deploy_scaled(tmp_path)
        with Load(server.port, "scaled", connections=16) as load:
            for number in (1, 2):
                wait_until(partial(has_succeeded, server, number), f"successor {number} is there")
            wait_until(lambda: "shared-0" not in server_workers(server), "the first one is gone")
        assert_unharmed(load)


def most_bytes(pid: int) -> int:
    """Return the largest resident set of a process since it was last reset."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def shared(server: Server) -> dict[str, Any]:
    """Return the shared worker as the list shows it."""
    (worker,) = [w for w in server.json("get", "workers") if w["kind"] == "shared"]
    found: dict[str, Any] = worker
    return found


def states_of(worker: dict[str, Any]) -> dict[str, str]:
    """Return the state of each of a worker's versions."""
    return {item["variant"]: item["state"] for item in worker["variants"]}


def server_workers(server: Server) -> list[str]:
    """Return the ids of the shared workers."""
    return [w["id"] for w in server.json("get", "workers") if w["kind"] == "shared"]


def has_succeeded(server: Server, number: int) -> bool:
    """Tell whether the newest shared worker is this successor of the first one, or a later one."""
    return max((int(w.partition(".")[2] or 0) for w in server_workers(server)), default=0) >= number


def test_a_rollout_begins_if_its_worker_has_room_for_it(crowded: Server) -> None:
    """With ever more pinned, the gate lets one begin as long as the worker takes it in, not later.

    Then there is room for each of the others still.
    """
    refused = b""
    for number, pinned in enumerate(("m1", "m2", "m3", "m4"), start=2):
        crowded.ok("deploy", pinned, "--pin")
        model = models.onnx_weights(MODELS + number, SIDE)
        crowded.push(model, "m5", "--example", str(crowded.home / "rows.json"))
        started = crowded.salver("rollout", "start", "m5", "--to", str(number), "--steps", "5,50")
        refused = started.stderr
        if refused:
            break
        wait_until(lambda: rollout(crowded)["step"] == 1, "the new version is loaded")
        crowded.ok("rollout", "abort", "m5")
    assert b"[memory_budget_exceeded]" in refused
    for index in range(MODELS):
        assert ask(crowded, index) == [float(index + 1)] * SIDE


def rollout(server: Server) -> dict[str, Any]:
    """Return the newest rollout of the last model."""
    with server.client() as client:
        found: dict[str, Any] = client.rollout("m5")
    return found
