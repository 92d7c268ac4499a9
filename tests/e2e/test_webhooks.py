"""Webhooks and approvals on a running server with real traffic, across the death of control."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from salver.core.errors import SalverError
from tests.control.receiver import Receiver, Reply, Told
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, wait_until

ANALYSIS = "warmup_s: 0\nwarmup_requests: 1\npromote_on: no_worse\nlatency_floor_s: 1\n"
QUICK = ("--auto", "--min-requests", "20", "--steps", "10,100")


class Desk:
    """Says yes, unless it is told otherwise, and may end control before it answers."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.kills = 0
        self.reply = Reply(200)

    def __call__(self, _number: int, _told: Told) -> Reply:
        """Answer; control cannot have noted what it does not know yet."""
        pid = self.server.pid_of("control") if self.server is not None and self.kills else None
        if pid is not None:
            self.kills -= 1
            os.kill(pid, signal.SIGKILL)
        return self.reply


@pytest.fixture
def desk() -> Desk:
    """Give who answers."""
    return Desk()


@pytest.fixture
def receiver(desk: Desk) -> Iterator[Receiver]:
    """Give the server of one webhook."""
    with Receiver(desk) as receiver:
        yield receiver


@pytest.fixture
def server(home: Path, receiver: Receiver, tmp_path: Path) -> Iterator[Server]:
    """Give a server with two versions, whose endpoint asks the webhook."""
    home.mkdir(exist_ok=True)
    (home / "salver.yaml").write_text(
        f"control: {{rollout_interval_s: 0.1, webhook_hosts: '127.0.0.1:{receiver.port}'}}\n"
    )
    (tmp_path / "analysis.yaml").write_text(ANALYSIS)
    events = ["before_step", "promoted", "rolled_back", "paused"]
    hook = {"name": "desk", "url": f"http://127.0.0.1:{receiver.port}/hook?key=k", "on": events}
    (tmp_path / "hooks.yaml").write_text(yaml.safe_dump({"webhooks": [hook]}))
    with Server(home) as running:
        for scale in (2, 3):
            running.push_scaled(tmp_path, scale)
        running.ok(
            "deploy", "scaled:1", "--endpoint", "scaled", "--webhooks", str(tmp_path / "hooks.yaml")
        )
        yield running


def state_of(server: Server) -> dict[str, Any]:
    """Return the rollout, empty while control is away."""
    try:
        with server.client() as client:
            found: dict[str, Any] = client.rollout("scaled")
    except SalverError:
        return {"state": "", "awaits": ""}
    return found


def test_a_killed_control_tells_again_with_the_same_id(
    server: Server, desk: Desk, receiver: Receiver, tmp_path: Path
) -> None:
    """Killed between answer and record, it delivers again and takes each step once."""
    desk.server, desk.kills = server, 3
    with Load(server.port, "scaled", connections=8, pause_s=0.005) as load:
        server.ok(
            "rollout", "start", "scaled", "--to", "2", *QUICK,
            "--analysis", str(tmp_path / "analysis.yaml"),
        )  # fmt: skip
        wait_until(lambda: state_of(server)["state"] == "promoted", "it is promoted", 120)

        def told() -> bool:
            with server.client() as client:
                lines = client.rollout("scaled")["webhooks"]
            return {line["state"] for line in lines} == {"delivered"}

        wait_until(told, "all is delivered", 60)
    assert_unharmed(load)
    assert desk.kills == 0
    bodies: dict[str, set[bytes]] = {}
    for each in receiver.told:
        bodies.setdefault(each.headers["x-salver-delivery"], set()).add(each.body)
    assert len(receiver.told) == len(bodies) + 3
    assert all(len(sent) == 1 for sent in bodies.values())
    facts = [json.loads(*sent) for sent in bodies.values()]
    assert [(f["event"], f["weight"]) for f in sorted(facts, key=lambda f: f["sequence"])] == [
        ("before_step", 10.0), ("before_step", 100.0), ("promoted", 100.0),
    ]  # fmt: skip
    history = server.json("rollout", "history", "scaled")
    events = [line["event"] for line in reversed(history) if line["event"] != "webhook"]
    assert events == ["start", "ask", "step", "ask", "promote"]
    shown = server.ok("rollout", "status", "scaled")
    assert "webhook desk: promoted delivered" in shown
    assert "webhook desk" in server.ok("rollout", "history", "scaled")
    assert "key=k" not in shown
    delivered = server.metric(
        "salver_webhook_deliveries_total", event="before_step", outcome="delivered"
    )
    assert delivered is not None
    assert delivered >= 1


def test_a_no_pauses_and_people_go_on(server: Server, desk: Desk, tmp_path: Path) -> None:
    """The reason is shown; a promotion by hand asks too, unless it is forced."""
    desk.reply = Reply(409, b"change freeze until Monday")
    server.ok("rollout", "start", "scaled", "--to", "2", *QUICK)
    wait_until(lambda: state_of(server)["state"] == "paused", "it is paused", 60)
    shown = server.ok("rollout", "status", "scaled")
    assert "webhook desk said no: 409: change freeze until Monday" in shown
    desk.reply = Reply(200)
    server.ok("rollout", "resume", "scaled")
    wait_until(lambda: state_of(server)["step"] == 1, "the first step", 60)
    desk.reply = Reply(403)
    assert "awaiting webhooks" not in server.ok("rollout", "promote", "scaled", "--force")
    assert state_of(server)["state"] == "promoted"


def test_two_people_approve_before_the_promotion(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is paused until somebody else does, then promoted by itself; a deploy is refused."""
    file = tmp_path / "endpoint.yaml"
    document: dict[str, Any] = {"kind": "Endpoint", "name": "scaled", "model": "scaled:1"}
    file.write_text(yaml.safe_dump({**document, "approvals": 1}))
    server.ok("apply", "-f", str(file))
    assert "unchanged" in server.ok("apply", "-f", str(file))
    monkeypatch.setenv("LOGNAME", "alice")
    done = server.salver("deploy", "scaled:2", "--endpoint", "scaled", "--force")
    assert b"[approval_missing]" in done.stderr
    with Load(server.port, "scaled", connections=8, pause_s=0.005):
        server.ok(
            "rollout", "start", "scaled", "--to", "2", *QUICK,
            "--analysis", str(tmp_path / "analysis.yaml"),
        )  # fmt: skip
        wait_until(lambda: state_of(server)["awaits"] == "approval", "it awaits approval", 60)
        assert "paused, awaiting approval" in server.ok("rollout", "status", "scaled")
        server.ok("rollout", "approve", "scaled")
        assert state_of(server)["awaits"] == "approval"
        assert b"[approval_missing]" in server.salver("rollout", "promote", "scaled").stderr
        server.kill("control")
        wait_until(lambda: state_of(server)["awaits"] == "approval", "it still does", 60)
        monkeypatch.setenv("LOGNAME", "bob")
        server.ok("rollout", "approve", "scaled", "--comment", "looks well")
        wait_until(lambda: state_of(server)["state"] == "promoted", "it is promoted", 60)
    history = server.json("rollout", "history", "scaled")
    approvals = [(e["actor"], e["reason"]) for e in history if e["event"] == "approve"]
    assert approvals == [("bob", "looks well"), ("alice", "")]
    file.write_text(yaml.safe_dump(document))
    assert b"[approval_missing]" in server.salver("apply", "-f", str(file)).stderr
