"""Shadows and experiments on a running server."""

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from salver.core.errors import Conflict, InvalidRequest, SideNotFound
from salver.gateway.grpc.schema import message_class
from tests.e2e.server import Server, wait_until
from tests.gateway.grpc.calls import infer_request


@pytest.fixture
def hurried(home: Path) -> None:
    """Let splits follow success every second."""
    home.mkdir()
    (home / "salver.yaml").write_text("control: {experiment_interval_s: 1}\n")


@pytest.fixture
def server(home: Path, tmp_path: Path) -> Iterator[Server]:
    """Give a server whose endpoint ``scaled`` serves the first of three versions."""
    with Server(home) as running:
        for scale in (2, 3, 5):
            running.push_scaled(tmp_path, scale)
        running.ok("deploy", "scaled:1")
        yield running


def ask(server: Server, value: float, user: str = "") -> httpx.Response:
    """Ask for one row."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    headers = {"x-user": user} if user else {}
    url = server.state()["http_url"] + "/v2/models/scaled/infer"
    answer = httpx.post(url, json={"inputs": [item]}, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def report(server: Server, kind: str) -> dict[str, Any]:
    """Return a report."""
    found: dict[str, Any] = server.json(kind, "report", "scaled")
    return found


def test_a_shadow_is_compared_and_nobody_gets_its_answers(server: Server) -> None:
    """A version that says something else shows, one that says the same too; then it ends."""
    said = server.ok("shadow", "start", "scaled", "--version", "2", "--sample", "1")
    assert "scaled:2 gets copies of 100 %" in said

    def compared() -> bool:
        assert ask(server, 1.0).headers["x-salver-variant"] == "scaled:1"
        copies = report(server, "shadow")["copies"]
        assert not copies["agrees"]
        return int(copies["differs"]) >= 5

    wait_until(compared, "copies are compared", 60)
    found = report(server, "shadow")
    assert found["agreement"] == 0
    assert found["largest_difference_at_most"] == 1.0
    assert found["seconds"]["shadow"]["p50"] is not None
    with server.client() as client:
        with pytest.raises(Conflict, match="shadow 1 of endpoint 'scaled' goes on"):
            client.start_rollout("scaled", 2)
        client.stop_shadow("scaled")
        with pytest.raises(SideNotFound):
            client.stop_shadow("scaled")
        assert client.shadow("scaled")["active"] is False


def policies(pid: int) -> set[int]:
    """Return how the system schedules the threads of a process."""
    return {os.sched_getscheduler(int(task)) for task in os.listdir(f"/proc/{pid}/task")}


def test_a_shadow_steps_back_until_it_gets_requests(server: Server) -> None:
    """Copies wait for whoever else wants the processor; requests of callers never do."""
    server.ok("shadow", "start", "scaled", "--version", "2", "--sample", "1")

    def compared() -> bool:
        ask(server, 1.0)
        return int(report(server, "shadow")["copies"]["differs"]) >= 5

    wait_until(compared, "copies are compared", 60)
    (worker,) = hosts(server)
    assert policies(worker["pid"]) == {os.SCHED_IDLE}
    server.ok("deploy", "scaled:2", "--endpoint", "other", "--hosting", "dedicated")
    server.ok("shadow", "stop", "scaled")
    server.ok("deploy", "scaled:2", "--hosting", "dedicated")
    assert ask(server, 1.0).headers["x-salver-variant"] == "scaled:2"

    wait_until(
        lambda: worker["id"] not in [w["id"] for w in hosts(server)],
        "the worker of copies is gone",
        60,
    )
    (serves,) = hosts(server)
    assert policies(serves["pid"]) == {os.SCHED_OTHER}


def hosts(server: Server) -> list[dict[str, Any]]:
    """Return the workers of their own that have the second version."""
    return [
        worker
        for worker in server.json("get", "workers")
        if worker["kind"] == "dedicated" and worker["models"] == ["scaled:2"]
    ]


def test_an_experiment_finds_the_better_arm(server: Server, tmp_path: Path) -> None:
    """Callers stick, outcomes find their arm by the id, and the report says who is ahead."""
    server.ok("deploy", "scaled:1", "--routing-key", "header:x-user")
    server.ok(
        "experiment", "start", "scaled", "--arms", "1,2", "--split", "50,50", "--metric", "paid"
    )
    wait_until(
        lambda: len({ask(server, 1.0, f"u{n}").headers["x-salver-variant"] for n in range(20)}) > 1,
        "both arms answer",
        60,
    )
    lines = []
    for number in range(400):
        answer = ask(server, 1.0, f"user-{number}")
        better = answer.headers["x-salver-variant"] == "scaled:2"
        paid = number % 2 == 0 if better else number % 10 == 0
        lines.append({"request_id": answer.headers["x-salver-request-id"], "value": paid})
    outcomes = tmp_path / "outcomes.jsonl"
    outcomes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = server.ok("feedback", "scaled", "-f", str(outcomes), "--metric", "paid")
    assert said.startswith("400 taken")
    found = report(server, "experiment")
    first, second = found["arms"]
    assert (first["arm"], second["arm"], found["sticky"]) == ("scaled:1", "scaled:2", True)
    assert first["outcomes"] + second["outcomes"] == 400
    assert second["verdict"] == "higher"
    assert second["low"] > 0
    plot = tmp_path / "out.svg"
    assert "scaled:2" in server.ok("experiment", "report", "scaled", "--plot", str(plot))
    assert ET.parse(plot).getroot().tag.endswith("svg")
    server.ok("experiment", "stop", "scaled")
    wait_until(
        lambda: (
            {ask(server, 1.0, f"u{n}").headers["x-salver-variant"] for n in range(20)}
            == {"scaled:1"}
        ),
        "all go to the primary version",
        60,
    )
    assert report(server, "experiment")["arms"][1]["verdict"] == "higher"


def answers(server: Server, users: range) -> dict[str, tuple[str, str]]:
    """Return the variant and the id of an answer to each user."""
    found = {}
    for user in users:
        answer = ask(server, 1.0, f"user-{user}")
        head = answer.headers
        found[f"user-{user}"] = (head["x-salver-variant"], head["x-salver-request-id"])
    return found


def tell(server: Server, path: Path, lines: list[dict[str, Any]], metric: str) -> None:
    """Report outcomes."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = server.ok("feedback", "scaled", "-f", str(path), "--metric", metric)
    assert said.startswith(f"{len(lines)} taken")


@pytest.mark.usefixtures("hurried")
def test_a_split_follows_success(server: Server, tmp_path: Path) -> None:
    """The better arm gets more, by events that say why, across a kill; floors never move."""
    server.ok("deploy", "scaled:1", "--routing-key", "header:x-user")
    file = tmp_path / "experiment.yaml"
    file.write_text("arms: [1, 2]\nsplit: thompson\nfloor: 20\n")
    said = server.ok("experiment", "start", "scaled", "-f", str(file), "--metric", "paid")
    assert "follows success" in said
    wait_until(
        lambda: len({variant for variant, _ in answers(server, range(30)).values()}) > 1,
        "both arms answer",
        60,
    )
    wait_until(lambda: report(server, "experiment")["sample_ratio"]["arms"][1]["requests"] > 0,
               "requests are counted", 60)  # fmt: skip
    first = answers(server, range(300))
    lines = [
        {"request_id": request_id, "value": number % 10 < (6 if variant == "scaled:2" else 1)}
        for number, (variant, request_id) in enumerate(first.values())
    ]
    tell(server, tmp_path / "outcomes.jsonl", lines, "paid")
    server.kill("control")
    wait_until(lambda: report(server, "experiment")["percent"]["scaled:2"] > 70, "it follows", 60)
    changes = server.json("experiment", "history", "scaled")
    assert changes[-1]["best"]["scaled:2"] > 0.9
    assert "scaled:2" in server.ok("experiment", "history", "scaled")

    def moved() -> bool:
        now = answers(server, range(300))
        return sum(variant == "scaled:2" for variant, _ in now.values()) > 200

    wait_until(moved, "callers are moved", 60)
    now = answers(server, range(300))
    stayed = [user for user in first if first[user][0] == now[user][0]]
    # Each arm has 20 % for good, and more for one only moves callers to it.
    assert all(first[user][0] == "scaled:1" for user in first if user not in stayed)
    assert sum(first[user][0] == "scaled:1" for user in stayed) > 30
    found = report(server, "experiment")
    assert found["sample_ratio"]["holds"]
    assert found["arms"][1]["verdict"] == "higher"
    assert found["arms"][1]["compared"] < found["arms"][1]["outcomes"]


def test_what_was_known_before_narrows_a_report(server: Server, tmp_path: Path) -> None:
    """A file of callers is found again by their keys."""
    server.ok("deploy", "scaled:1", "--routing-key", "header:x-user")
    server.ok("experiment", "start", "scaled", "--arms", "1,2", "--split", "50,50")
    wait_until(
        lambda: len({variant for variant, _ in answers(server, range(30)).values()}) > 1,
        "both arms answer",
        60,
    )
    wait_until(lambda: report(server, "experiment")["sample_ratio"]["arms"][1]["requests"] > 0,
               "requests are counted", 60)  # fmt: skip
    users = answers(server, range(300))
    lines, known = [], ["key,value"]
    for number, (user, (variant, request_id)) in enumerate(users.items()):
        habit = number * 7919 % 100 * 3
        known.append(f"{user},{habit}")
        spent = habit + number % 3 + 5.0 * (variant == "scaled:2")
        lines.append({"request_id": request_id, "value": spent})
    tell(server, tmp_path / "outcomes.jsonl", lines, "outcome")
    plain = report(server, "experiment")["arms"][1]
    before = tmp_path / "before.csv"
    before.write_text("\n".join(known) + "\n")
    said = server.ok("experiment", "covariate", "scaled", str(before))
    assert "300 callers" in said
    better = report(server, "experiment")["arms"][1]
    assert plain["verdict"] == "no difference shown"
    assert better["verdict"] == "higher"
    assert better["low"] < 5 < better["high"]
    assert better["high"] - better["low"] < (plain["high"] - plain["low"]) / 3
    before.write_text("key,value\nuser-1,3\nuser-1,4\n")
    done = server.salver("experiment", "covariate", "scaled", str(before))
    assert b"before.csv:3" in done.stderr


def test_answers_on_a_stream_can_be_reported_of(server: Server) -> None:
    """While there are several versions each answer has its id as a parameter."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=lambda sent: sent.SerializeToString(),
            response_deserializer=message_class("inference.ModelStreamInferResponse").FromString,
        )

        def asked() -> Any:
            request = infer_request("scaled", {"x": np.array([[5.0]], np.float32)})
            (answer,) = call(iter([request]), timeout=30)
            assert answer.error_message == ""
            return answer.infer_response

        assert "x-salver-request-id" not in asked().parameters
        with server.client() as client:
            client.start_experiment("scaled", [1, 2], [50, 50])
            wait_until(lambda: "x-salver-request-id" in asked().parameters, "both arms answer", 60)
            for _ in range(3):
                request_id = asked().parameters["x-salver-request-id"].string_param
                client.feedback("scaled", request_id, 1.0)


def test_experiments_that_cannot_be_are_refused(server: Server) -> None:
    """With the cause, and nothing changes."""
    with server.client() as client:
        for arms, split, cause in (
            ([1, 2], [50, 60], "add up to 110"),
            ([1, 1], [50, 50], "one arm only"),
            ([2, 3], [50, 50], "what the endpoint serves now"),
            ([1, 2], [100, 0], "add up|part"),
            ([1, 2, 3], [50, 50], "a part each"),
        ):
            with pytest.raises(InvalidRequest, match=cause):
                client.start_experiment("scaled", arms, split)
        with pytest.raises(SideNotFound):
            client.experiment("scaled")
