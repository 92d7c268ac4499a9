"""What the two clients do to endpoints that change: the same calls, the same answers and errors."""

import asyncio
import inspect
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver import AsyncClient, Client
from salver.core.errors import (
    Conflict,
    EndpointFrozen,
    FeedbackDiffers,
    InvalidRequest,
    PreviousNotFound,
    RolloutActive,
    RolloutNotFound,
    SideActive,
    SideNotFound,
    VersionNotFound,
)
from tests import models
from tests.e2e.server import Server, wait_until, write_rows

ONE = np.ones((1, 1), np.float32)
NUMBERS = itertools.count()


class Caller:
    """One of the clients, of which every method is called like those of the synchronous one."""

    def __init__(self, kind: str, home: Path) -> None:
        self._runner = asyncio.Runner()
        self._client: Any = (Client if kind == "sync" else AsyncClient)(home=home)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return what calls a method, and waits for it."""
        method = getattr(self._client, name)

        def call(*given: Any, **named: Any) -> Any:
            answer = method(*given, **named)
            return self._runner.run(answer) if inspect.iscoroutine(answer) else answer

        return call

    def stop(self) -> None:
        """Close the connections and the loop."""
        self.close()
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Give the name of a client."""
    return str(request.param)


@pytest.fixture
def client(server: Server, kind: str) -> Iterator[Caller]:
    """Give a client."""
    made = Caller(kind, server.home)
    yield made
    made.stop()


@pytest.fixture
def endpoint(server: Server, tmp_path: Path, kind: str) -> Iterator[str]:
    """Give a new endpoint that serves the first of two versions; callers have a key."""
    rows, name = write_rows(tmp_path / "rows.json", [[1.0]]), f"{kind}-{next(NUMBERS)}"
    for scale in (2, 3):
        server.push(models.onnx_identity("FP32", scale), name, "--example", str(rows))
    server.ok("deploy", f"{name}:1", "--endpoint", name, "--routing-key", "parameter:user")
    yield name
    server.salver("undeploy", name)


def test_both_have_the_same_calls() -> None:
    """Names, parameters and defaults, so that one page describes both."""

    def calls(client: type) -> dict[str, list[str]]:
        return {
            name: [str(one) for one in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }

    assert calls(Client) == calls(AsyncClient)
    assert {"start_rollout", "feedback_file", "freeze"} <= calls(Client).keys()


def answered(client: Caller, endpoint: str) -> list[float]:
    """Return what the endpoint makes of 1 for several callers."""
    return [
        client.predict(endpoint, ONE, parameters={"user": f"u{n}"}).outputs["y"].item()
        for n in range(20)
    ]


def test_rollouts(client: Caller, endpoint: str) -> None:
    """Started, looked at, weighed, paused, resumed, promoted, rolled back, and their history."""
    with pytest.raises(RolloutNotFound):
        client.rollout(endpoint)
    with pytest.raises(VersionNotFound):
        client.start_rollout(endpoint, 7)
    with pytest.raises(PreviousNotFound):
        client.rollback(endpoint)
    begun = client.start_rollout(endpoint, 2, strategy="manual", max_duration_s=600)
    assert (begun["state"], begun["to"], begun["from"]) == (
        "running", f"{endpoint}:2", f"{endpoint}:1",
    )  # fmt: skip
    with pytest.raises(RolloutActive):
        client.start_rollout(endpoint, 2)
    wait_until(lambda: client.rollout(endpoint)["step"] == 1, "the new version is loaded")
    assert 0 < client.rollout(endpoint)["time_left_s"] <= 600
    assert client.set_rollout_weight(endpoint, 50)["weights"][f"{endpoint}:2"] == 50
    wait_until(lambda: set(answered(client, endpoint)) == {2.0, 3.0}, "both answer")
    assert client.pause_rollout(endpoint, "lunch")["state"] == "paused"
    with pytest.raises(Conflict, match="lunch"):
        client.pause_rollout(endpoint)
    assert client.resume_rollout(endpoint)["state"] == "running"
    assert client.promote_rollout(endpoint, "good", force=True)["state"] == "promoted"
    wait_until(lambda: set(answered(client, endpoint)) == {3.0}, "the new one answers")
    back = client.rollback(endpoint, "not so good")
    assert (back["version"], back["was_in_memory"]) == (f"{endpoint}:1", True)
    assert set(answered(client, endpoint)) == {2.0}
    taken_back = client.rollout(endpoint)["taken_back"]
    assert (taken_back["to"], taken_back["reason"]) == (f"{endpoint}:1", "not so good")
    client.start_rollout(endpoint, 2, force=True)
    assert client.abort_rollout(endpoint, "enough")["state"] == "rolled_back"
    history = client.rollout_history(endpoint, 100)
    told = [event["event"] for event in reversed(history)]
    # The version may have been ready before the rollout was aborted.
    if told[-2] == "step":
        del told[-2]
    assert told == [
        "start", "step", "weight", "pause", "resume", "promote", "go_back", "start", "roll_back",
    ]  # fmt: skip
    assert {"lunch", "good", "enough"} <= {event["reason"] for event in history}
    assert client.rollout_history(endpoint, limit=1) == history[:1]


def test_approvals(client: Caller, endpoint: str) -> None:
    """Of the version that is rolled out, by who calls; of another beforehand."""
    client.deploy(f"{endpoint}:1", endpoint=endpoint, approvals=2)
    found = client.approve_rollout(endpoint, "looked at", version=2)
    assert (found["version"], len(found["approvals"]["by"])) == (f"{endpoint}:2", 1)
    client.undeploy(endpoint, force=True)


def test_shadows(client: Caller, endpoint: str) -> None:
    """Started, reported of, and stopped."""
    with pytest.raises(SideNotFound):
        client.shadow(endpoint)
    begun = client.start_shadow(endpoint, 2, 1.0)
    assert (begun["active"], begun["percent"]) == (True, {f"{endpoint}:2": 100})
    with pytest.raises(SideActive):
        client.start_shadow(endpoint, 2)

    def compared() -> bool:
        assert set(answered(client, endpoint)) == {2.0}
        return int(client.shadow(endpoint)["copies"]["differs"]) > 0

    wait_until(compared, "copies are compared")
    assert client.stop_shadow(endpoint)["active"] is False
    with pytest.raises(SideNotFound):
        client.stop_shadow(endpoint)


@pytest.mark.parametrize("over", [None, "data", "control"])
def test_experiments_and_feedback(
    client: Caller, endpoint: str, tmp_path: Path, over: str | None
) -> None:
    """Started, told of callers and outcomes one by one and in a file, reported of, and stopped.

    Outcomes outside the declared bounds are refused, each by its line.
    """
    with pytest.raises(InvalidRequest, match="'minimum' is a number below 'maximum'"):
        client.start_experiment(endpoint, [1, 2], [50, 50], "paid", minimum=1, maximum=0)
    begun = client.start_experiment(
        endpoint, [1, 2], "thompson", "paid", floor=20, minimum=0, maximum=1
    )
    assert (begun["split"], begun["floor"]) == ("thompson", 20)
    assert (begun["minimum"], begun["maximum"]) == (0, 1)
    wait_until(lambda: set(answered(client, endpoint)) == {2.0, 3.0}, "both arms answer")
    before = tmp_path / "before.csv"
    before.write_text("key,value\nu1,3\nu2,4\n")
    assert client.covariate_file(endpoint, before) == 2
    ids = [client.predict(endpoint, ONE, parameters={"user": f"u{n}"}).request_id for n in range(6)]
    client.feedback(endpoint, ids[0], 1.0, "paid", over=over)
    with pytest.raises(FeedbackDiffers):
        client.feedback(endpoint, ids[0], 0.0, "paid", over=over)
    with pytest.raises(InvalidRequest, match="'paid' by values from 0 to 1"):
        client.feedback(endpoint, ids[1], 1e6, "paid", over=over)
    lines = tmp_path / "outcomes.jsonl"
    values = (1, 0, 2, 1, 1e300)
    lines.write_text(
        "".join(
            json.dumps({"request_id": request_id, "value": value}) + "\n"
            for request_id, value in zip(ids[1:], values, strict=True)
        )
    )
    done = client.feedback_file(endpoint, lines, "paid", over=over)
    assert done["taken"] == 3
    assert [(p["number"], p["code"]) for p in done["problems"]] == [
        (3, "invalid_request"),
        (5, "invalid_request"),
    ]
    wait_until(
        lambda: sum(arm["outcomes"] for arm in client.experiment(endpoint)["arms"]) == 4,
        "all arms answer, and outcomes count",
    )
    found = client.experiment(endpoint)
    assert found["callers_known"] == 2
    assert all(0 <= arm["mean"] <= 1 for arm in found["arms"] if arm["mean"] is not None)
    assert client.experiment_history(endpoint) == []
    assert client.stop_experiment(endpoint)["active"] is False


def test_freezes(client: Caller, endpoint: str) -> None:
    """Nothing changes a frozen endpoint, with who froze it and why."""
    assert client.freeze(endpoint, "outage")["frozen"]["reason"] == "outage"
    for change, given in (
        ("start_rollout", (endpoint, 2)),
        ("start_shadow", (endpoint, 2)),
        ("start_experiment", (endpoint, [1, 2], [50, 50])),
        ("undeploy", (endpoint,)),
    ):
        with pytest.raises(EndpointFrozen, match="outage"):
            getattr(client, change)(*given)
    assert set(answered(client, endpoint)) == {2.0}
    assert client.unfreeze(endpoint)["frozen"] is None
    with pytest.raises(Conflict):
        client.unfreeze(endpoint)
