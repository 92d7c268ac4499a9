"""Shadows and experiments on a running server."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from salver.core.errors import Conflict, InvalidRequest, SideNotFound
from tests.e2e.server import Server, wait_until


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
