"""Replicas follow the load with real processes, and no caller notices."""

import json
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests import models
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, wait_until

# Everything a second long instead of a minute, so that a test sees up and down.
SETTINGS = """
control: {snapshot_interval_s: 0.2, reconcile_interval_s: 0.2}
autoscale: {interval_s: 0.2, stable_window_s: 3, panic_window_ratio: 0.34, max_workers: 3}
"""
DEPLOY = ("--max-replicas", "8", "--scale-target", "4", "--scale-down-delay", "1")


def test_replicas_follow_the_load_and_no_request_fails(home: Path, tmp_path: Path) -> None:
    """Up to what the machine takes under load, kept over a restart of control, and down again."""
    home.mkdir()
    (home / "salver.yaml").write_text(SETTINGS)
    with Server(home) as server:
        server.push_scaled(tmp_path, path=models.onnx_slow(2))
        server.ok("deploy", "scaled", *DEPLOY)
        assert _endpoint(server)["replicas"] == 1
        with Load(server.port, "scaled", connections=4, pause_s=0.2) as always:
            with Load(server.port, "scaled", connections=32, pause_s=0.0) as busy:
                wait_until(lambda: _endpoint(server)["ready_replicas"] == 3, "three are ready")
                assert "[worker_limit]" in _endpoint(server)["scaling"]["reason"]
                assert server.metric("salver_replicas_wanted", endpoint="scaled") == 3
                server.kill("control")
                wait_until(lambda: server.salver("status").returncode == 0, "control is back")
                assert _endpoint(server)["replicas"] == 3
            assert_unharmed(busy)
            wait_until(lambda: server.pid_of("shared-2") is None, "it went down again", 90)
            wait_until(lambda: _endpoint(server)["replicas"] == 1, "one is enough", 90)
            wait_until(lambda: server.metric("salver_autoscale_panic") == 0, "panic is over")
        assert_unharmed(always)
        told = [event for event in _events(server) if event["actor"] == "autoscaler"]
        assert {event["subject"] for event in told} == {"scaled"}
        assert [event["details"]["replicas"] for event in told][::-1][0] != "1"
        assert told[0]["details"]["replicas"] == "1"
        assert all("open requests over" in event["details"]["reason"] for event in told)
        worker = next(row for row in server.json("get", "workers") if row["id"] == "shared-0")
        assert worker["wanted"] == ["scaled:1"]
        assert "a worker" in worker["why"][0]
        assert "scaled" in (home / "logs" / "control.log").read_text()


FAST, SLOW = 1, 5
# Options, rounds of arithmetic of the model, and what the reason speaks of.
SIGNALS = {
    "rate": (("--scale-on", "rate", "--scale-target", "40"), FAST, "requests/s over"),
    "queue": (
        ("--scale-on", "queue", "--scale-target", "100", "--max-batch-size", "1"),
        SLOW,
        "100 ms are allowed",
    ),
}


@pytest.mark.parametrize("signal", sorted(SIGNALS))
def test_replicas_follow_other_signals(home: Path, tmp_path: Path, signal: str) -> None:
    """Requests a second, or how long they wait: up to the most there may be, and down again.

    Whoever looks is told what was seen and what is aimed at, and no request fails.
    """
    options, rounds, told = SIGNALS[signal]
    home.mkdir()
    (home / "salver.yaml").write_text(SETTINGS)
    with Server(home) as server:
        server.push_scaled(tmp_path, path=models.onnx_slow(2, rounds))
        bounds = ("--min-replicas", "1", "--max-replicas", "2", "--scale-down-delay", "1")
        server.ok("deploy", "scaled", *bounds, *options)
        with Load(server.port, "scaled", connections=1, pause_s=0.2) as always:
            with Load(server.port, "scaled", connections=16, pause_s=0.02) as busy:
                wait_until(lambda: _endpoint(server)["ready_replicas"] == 2, "two are ready")
                assert _endpoint(server)["scaling"]["on"] == signal
                # How long requests wait is measured anew after each change.
                wait_until(lambda: told in _why(server, "scaled:2"), "the reason is told")
            assert_unharmed(busy)
            wait_until(lambda: _endpoint(server)["replicas"] == 1, "one is enough", 90)
            wait_until(lambda: server.pid_of("shared-1") is None, "the other one is gone")
        assert_unharmed(always)
        decided = [one["details"] for one in _events(server) if one["actor"] == "autoscaler"][::-1]
        assert (decided[0]["before"], decided[0]["replicas"]) == ("1", "2")
        assert decided[-1]["replicas"] == "1"
        assert all(told in one["reason"] for one in decided)
        assert told in (home / "logs" / "control.log").read_text()


def test_without_a_maximum_nothing_changes(home: Path, tmp_path: Path) -> None:
    """The plain number stays whatever is asked, and nothing is said of scaling."""
    home.mkdir()
    (home / "salver.yaml").write_text(SETTINGS)
    with Server(home) as server:
        server.push_scaled(tmp_path, path=models.onnx_slow(2))
        server.ok("deploy", "scaled", "--replicas", "2")
        with Load(server.port, "scaled", connections=32, pause_s=0.0) as busy:
            wait_until(lambda: busy.answered > 200, "traffic")
            assert _endpoint(server)["replicas"] == 2
            assert _endpoint(server)["scaling"] is None
        assert_unharmed(busy)
        assert not [event for event in _events(server) if event["action"] == "scale"]
        assert all(row["wanted"] == [] for row in server.json("get", "workers"))


def _why(server: Server, wanted: str) -> str:
    """Return what both shared workers say of how many there shall be."""
    rows = [row for row in server.json("get", "workers") if row["kind"] == "shared"]
    assert [row["wanted"] for row in rows] == [[wanted]] * 2
    (why,) = {row["why"][0] for row in rows}
    return str(why)


def _endpoint(server: Server) -> dict[str, Any]:
    with server.client() as client:
        endpoint: dict[str, Any] = client.endpoints()[0]
        return endpoint


def _events(server: Server) -> list[dict[str, Any]]:
    url = json.loads((server.home / "run" / "control.json").read_text())["url"]
    token = (server.home / "control.token").read_text()
    headers = {"authorization": f"Bearer {token}"}
    events: list[dict[str, Any]] = httpx.get(f"{url}/api/v1/events", headers=headers).json()
    return events


def test_a_name_that_is_wanted_again_waits_for_its_last_bearer(home: Path, tmp_path: Path) -> None:
    """Fewer and at once more: the worker that still answers is never one of two of its name."""
    with Server(home) as server:
        server.push_scaled(tmp_path, path=models.onnx_slow(2, rounds=100))
        server.ok("deploy", "scaled", "--replicas", "2")
        with Load(server.port, "scaled", connections=16, pause_s=0.0) as busy:
            wait_until(lambda: busy.answered > 16, "traffic")
            for _ in range(3):
                server.ok("deploy", "scaled", "--replicas", "1")
                wait_until(lambda: server.pid_of("shared-1") is None, "it leaves")
                server.ok("deploy", "scaled", "--replicas", "2")
                assert len(_bearers(home, "shared-1")) == 1
        assert_unharmed(busy)


def _bearers(home: Path, identity: str) -> list[int]:
    """Return the processes of a home that are this worker."""
    found: list[int] = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "salver.engine" in words and identity in words and str(home) in words:
            found.append(process.pid)
    return found
