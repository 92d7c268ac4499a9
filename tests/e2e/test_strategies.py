"""Ways from one version to another on a running server: all at once, by hand, and back again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, wait_until

COPIES = """
warmup_s: 1
min_agreement: 0
latency_floor_s: 0.05
"""


@pytest.fixture
def server(home: Path, tmp_path: Path) -> Iterator[Server]:
    """Give a server that serves the first of two versions, which double and triple."""
    with Server(home) as running:
        for scale in (2, 3):
            running.push_scaled(tmp_path, scale)
        running.ok("deploy", "scaled:1", "--endpoint", "scaled")
        yield running


def rollout(server: Server) -> dict[str, Any]:
    """Return the newest rollout."""
    with server.client() as client:
        found: dict[str, Any] = client.rollout("scaled")
    return found


def test_a_blue_green_version_takes_over_at_once_after_its_copies(
    server: Server, tmp_path: Path
) -> None:
    """Until its copies have shown no harm nobody gets its answers, and then everybody does."""
    analysis = tmp_path / "analysis.yaml"
    analysis.write_text(COPIES)
    with Load(server.port, "scaled", connections=8, pause_s=0.04) as load:
        server.ok("rollout", "start", "scaled", "--to", "2", "--strategy", "blue-green",
                  "--sample", "100", "--auto", "--analysis", str(analysis))  # fmt: skip
        wait_until(lambda: rollout(server)["state"] != "running" or load.factors[3.0] > 0,
                   "the copies decide", 240)  # fmt: skip
        ended = rollout(server)
        assert ended["state"] == "promoted", ended["reason"]
        wait_until(lambda: load.factors[3.0] > 500, "the new version answers")
        doubled = load.factors[2.0]
        wait_until(lambda: load.factors[3.0] > 1000, "the new version answers all")
        assert load.factors[2.0] == doubled
    assert_unharmed(load)
    shown = {metric["name"]: metric for metric in ended["metrics"]}
    assert shown["failed_copies"]["verdict"] == "equivalent"
    assert shown["failed_copies"]["n_canary"] > 5000


def own_workers(server: Server) -> list[str]:
    """Return the workers that have the second version and nothing else."""
    return [w["id"] for w in server.json("get", "workers") if w["models"] == ["scaled:2"]]


def test_a_blue_green_version_gets_copies_by_itself_and_then_all_at_once(
    server: Server,
) -> None:
    """Copies run in a worker of its own, nobody can ask for it, and the switch fails no request.

    It answers there until the usual worker has it.
    """
    with Load(server.port, "scaled", connections=16) as load:
        server.ok("rollout", "start", "scaled", "--to", "2", "--strategy", "blue-green",
                  "--sample", "100")  # fmt: skip

        def copied() -> float:
            (labels, outcome) = ({"endpoint": "scaled", "variant": "scaled:2"}, "differs")
            return server.metric("salver_shadow_copies_total", outcome=outcome, **labels) or 0.0

        wait_until(lambda: copied() >= 20, "copies are compared", 60)
        assert len([w for w in own_workers(server) if w.startswith("dedicated-")]) == 1
        url = f"http://127.0.0.1:{server.port}/v2/models/scaled/versions/2"
        assert httpx.get(url, timeout=30).json()["code"] == "version_not_found"
        assert load.factors[3.0] == 0
        server.ok("rollout", "promote", "scaled")
        wait_until(lambda: load.factors[3.0] > 200, "the new version answers")
        wait_until(
            lambda: not [w for w in own_workers(server) if w.startswith("dedicated-")],
            "the usual worker has it",
            60,
        )
        moved = load.factors[3.0]
        wait_until(lambda: load.factors[3.0] > moved + 200, "it answers there")
    assert_unharmed(load)


def test_a_version_replaced_long_ago_is_loaded_again(server: Server) -> None:
    """Going back after ``--keep-previous`` takes a load and no failed request."""
    with Load(server.port, "scaled", connections=16) as load:
        server.ok("rollout", "start", "scaled", "--to", "2", "--strategy", "blue-green",
                  "--keep-previous", "1s")  # fmt: skip
        wait_until(lambda: rollout(server)["awaits"] == "promotion", "somebody is asked", 60)
        assert load.factors[3.0] == 0
        server.ok("rollout", "promote", "scaled")
        wait_until(lambda: load.factors[3.0] > 50, "the new version answers")
        wait_until(
            lambda: not [w for w in server.json("get", "workers") if "scaled:1" in w["models"]],
            "the old version has left",
            60,
        )
        with server.client() as client:
            answer = client.rollback("scaled", "found late")
        assert (answer["version"], answer["was_in_memory"]) == ("scaled:1", False)
        number = load.factors[2.0]
        wait_until(lambda: load.factors[2.0] > number + 50, "the old version answers")
    assert_unharmed(load)


def test_the_primary_stays_in_memory_until_the_rollout_ends(server: Server) -> None:
    """Also with hardly any traffic: going back by an abort loads nothing."""
    with Load(server.port, "scaled", connections=16) as load:
        server.ok("rollout", "start", "scaled", "--to", "2", "--strategy", "manual")
        wait_until(lambda: rollout(server)["step"] >= 0, "a start", 60)
        server.ok("rollout", "set-weight", "scaled", "99.99")
        wait_until(lambda: load.factors[3.0] > 100, "the new version answers")
        loads = server.metric("salver_model_loads_total")
        server.ok("rollout", "abort", "scaled")
        number = load.factors[2.0]
        wait_until(lambda: load.factors[2.0] > number + 100, "the primary answers")
    assert_unharmed(load)
    assert server.metric("salver_model_loads_total") == loads


def test_watching_shows_how_it_goes_until_it_ends(server: Server, tmp_path: Path) -> None:
    """Steps, weights, a line for each metric, what comes next; then the command ends by itself."""
    analysis = tmp_path / "analysis.yaml"
    analysis.write_text("warmup_s: 1\npromote_on: no_worse\nlatency_floor_s: 0.05\n")
    with Load(server.port, "scaled", connections=32) as load:
        server.ok("rollout", "start", "scaled", "--to", "2", "--steps", "50,100", "--auto",
                  "--step-time", "10s", "--analysis", str(analysis))  # fmt: skip
        shown = server.ok("rollout", "status", "scaled", "--watch")
    assert_unharmed(load)
    looks = shown.split("\n\n")
    assert "running" in looks[0]
    assert any("error_rate" in look and "time left" in look for look in looks[:-1])
    assert "promoted" in looks[-1]
