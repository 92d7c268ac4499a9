"""Rollouts on a running server with real traffic: steps, harm, going back, and control's death."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests import models
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, ask, wait_until

FLAKY = """
import numpy as np


class Model:
    def predict(self, inputs):
        x = inputs["x"]
        # Three of a hundred numbers.
        if ((x.astype(np.int64) * 7919) % 100 < SHARE).any():
            raise ValueError("cannot say")
        return {"y": 2 * x}
"""


QUICK = """
warmup_s: 1
promote_on: no_worse
latency_floor_s: 0.05
"""


@pytest.fixture
def quick(tmp_path: Path) -> tuple[str, str]:
    """Give what makes a rollout short: little warming up, and no proof of being as good."""
    path = tmp_path / "analysis.yaml"
    path.write_text(QUICK)
    return "--analysis", str(path)


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    """Give a server of its own to each test."""
    with Server(home) as running:
        yield running


def push(server: Server, folder: Path, scale: int) -> None:
    """Push a version that multiplies by ``scale``."""
    server.push_scaled(folder, scale)


def rollout(server: Server, endpoint: str = "scaled") -> dict[str, Any]:
    """Return an endpoint's newest rollout."""
    with server.client() as client:
        found: dict[str, Any] = client.rollout(endpoint)
    return found


def ends(server: Server, state: str, endpoint: str = "scaled") -> dict[str, Any]:
    """Wait until a rollout has come to a state, and return it; say where it stands if it does not.

    A failure then tells what the rollout waited for.
    """
    try:
        wait_until(
            lambda: rollout(server, endpoint)["state"] == state, f"the rollout is {state}", 120
        )
    except AssertionError as late:
        late.add_note(str(rollout(server, endpoint)))
        late.add_note(str(server.json("get", "workers")))
        raise
    return rollout(server, endpoint)


def events(server: Server, endpoint: str = "scaled") -> list[tuple[str, str, float]]:
    """Return the events of the newest rollout, oldest first."""
    with server.client() as client:
        history = client.rollout_history(endpoint)
    newest = history[0]["rollout"] if history else 0
    return [
        (e["event"], e["state"], e["weight"]) for e in reversed(history) if e["rollout"] == newest
    ]


def two_versions(server: Server, folder: Path) -> None:
    """Push two versions and serve the first."""
    for scale in (2, 3):
        push(server, folder, scale)
    server.ok("deploy", "scaled:1", "--endpoint", "scaled")


def test_a_good_version_is_promoted_through_four_steps(
    server: Server, tmp_path: Path, quick: tuple[str, str]
) -> None:
    """Every step is taken under load without a failed request, across kills of control."""
    two_versions(server, tmp_path)
    with Load(server.port, "scaled", connections=32) as load:
        told = server.ok(
            "rollout", "start", "scaled", "--to", "2", "--steps", "5,25,50,100", "--auto",
            "--min-requests", "100", *quick,
        )  # fmt: skip
        assert "salver rollout status scaled --watch" in told
        wait_until(lambda: rollout(server)["step"] == 2, "the second step", 60)
        server.kill("control")
        wait_until(lambda: rollout(server)["step"] >= 3, "the third step", 60)
        server.kill("control")
        ended = ends(server, "promoted")
        promoted_at = load.factors.copy()
        wait_until(lambda: load.factors[3.0] > promoted_at[3.0] + 500, "traffic to the new version")
    assert_unharmed(load)
    assert ended["weights"] == {"scaled:1": 0.0, "scaled:2": 100.0}
    assert events(server) == [
        ("start", "running", 0.0),
        ("step", "running", 5.0),
        ("step", "running", 25.0),
        ("step", "running", 50.0),
        ("promote", "promoted", 100.0),
    ]
    assert ask(server.port, "scaled", 5.0)[1]["outputs"][0]["data"] == [15.0]
    history = server.json("rollout", "history", "scaled")
    assert history[0]["actor"] == "judge"
    metric = history[0]["evidence"]["metrics"][0]
    assert metric["name"] == "error_rate"
    assert metric["n_canary"] >= 300
    assert metric["verdict"] != "worse"
    assert history[0]["evidence"]["sample_ratio"]["holds"]
    assert "promoted" in server.ok("rollout", "status", "scaled")


def test_going_back_loads_nothing(server: Server, tmp_path: Path) -> None:
    """The version before stays in memory and answers again, and the other one is marked.

    That it takes one plan is in ``tests/control/test_planner.py``; how long, in ``bench rollback``.
    """
    two_versions(server, tmp_path)
    with Load(server.port, "scaled", connections=16) as load:
        server.ok("deploy", "scaled:2", "--endpoint", "scaled")
        wait_until(lambda: load.factors[3.0] > 50, "the new version answers")
        loads = server.metric("salver_model_loads_total")
        assert loads
        with server.client() as client:
            answer = client.rollback("scaled", "wrong")
        assert (answer["version"], answer["was_in_memory"]) == ("scaled:1", True)
        number = load.factors[2.0]
        wait_until(lambda: load.factors[2.0] > number + 50, "the old version answers")
    assert_unharmed(load)
    done = server.salver("deploy", "scaled:2", "--endpoint", "scaled")
    assert b"[version_rolled_back]" in done.stderr
    assert b"wrong" in done.stderr
    done = server.salver("rollout", "start", "scaled", "--to", "2")
    assert b"[version_rolled_back]" in done.stderr
    done = server.salver("rollback", "scaled")
    assert b"[previous_not_found]" in done.stderr
    # By now what workers have loaded is known.
    assert server.metric("salver_model_loads_total") == loads
    server.ok("deploy", "scaled:2", "--endpoint", "scaled", "--force")
    assert ask(server.port, "scaled", 5.0)[1]["outputs"][0]["data"] == [15.0]


def coded(folder: Path, share: int) -> tuple[Path, Path]:
    """Write a model that fails for so many of a hundred numbers, and its example."""
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(dedent(FLAKY).replace("SHARE", str(share)))
    example = folder.parent / f"{folder.name}.json"
    item = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [50.0]}
    example.write_text(json.dumps({"inputs": [item]}))
    return folder, example


def test_a_version_that_fails_is_rolled_back_by_itself(
    server: Server, tmp_path: Path, quick: tuple[str, str]
) -> None:
    """A canary that raises for some inputs loses its traffic; few callers saw an error."""
    for share in (0, 10):
        path, example = coded(tmp_path / f"m{share}", share)
        server.push(path, "scaled", "--trust-code", "--example", str(example))
    server.ok("deploy", "scaled:1", "--endpoint", "scaled")
    with Load(server.port, "scaled", connections=32) as load:
        server.ok("rollout", "start", "scaled", "--to", "2", "--steps", "20,50", "--auto",
                  "--min-requests", "100000", *quick)  # fmt: skip
        ended = ends(server, "rolled_back")
        after = load.answered
        wait_until(lambda: load.answered > after + 300, "traffic")
    assert set(load.failed) == {"500 model_failed"}
    assert load.broken == load.wrong == 0
    assert "error_rate is worse" in ended["reason"]
    assert events(server)[-1] == ("roll_back", "rolled_back", 0.0)
    assert ended["weights"] == {"scaled:1": 100.0, "scaled:2": 0.0}
    done = server.salver("rollout", "start", "scaled", "--to", "2")
    assert b"[version_rolled_back]" in done.stderr


def test_a_version_that_fails_rarely_is_found_in_half_a_minutes_traffic(
    server: Server, tmp_path: Path
) -> None:
    """One that fails for 3 % at 5 % of some 500/s, judged as it comes: fewer than 40 saw an error.

    Half a minute of that traffic is 15,000 requests, which a slow machine takes longer for. If by
    chance so few fail that it cannot be told in 25 s, the next step shows it soon. How long it
    takes to answer does not matter.
    """
    analysis = tmp_path / "analysis.yaml"
    analysis.write_text("latency_floor_s: 1\n")
    for share in (0, 3):
        path, example = coded(tmp_path / f"m{share}", share)
        server.push(path, "scaled", "--trust-code", "--example", str(example))
    server.ok("deploy", "scaled:1", "--endpoint", "scaled")
    with Load(server.port, "scaled", connections=32, pause_s=0.06) as load:
        before, began = load.answered, time.monotonic()
        server.ok("rollout", "start", "scaled", "--to", "2", "--steps", "5,25,50,100", "--auto",
                  "--step-time", "25s", "--analysis", str(analysis))  # fmt: skip
        ended = ends(server, "rolled_back")
        asked, took_s = load.answered - before, time.monotonic() - began
    print(f"{asked} requests, {asked / took_s:.0f}/s, {took_s:.0f} s, failed: {load.failed}")
    assert set(load.failed) == {"500 model_failed"}
    assert load.broken == load.wrong == 0
    assert load.failed.total() < 40
    assert asked < 15_000
    assert ended["reason"].startswith("error_rate is worse"), ended["reason"]
    *steps, last = [weight for _, _, weight in events(server)]
    assert steps in ([0.0, 5.0], [0.0, 5.0, 25.0])
    assert last == 0.0


def test_a_good_version_is_promoted_by_what_is_asked_for_by_default(
    server: Server, tmp_path: Path
) -> None:
    """Through four steps, shown to be as good, although its answers take less than a millisecond.

    Weight changes fail no request.
    """
    two_versions(server, tmp_path)
    with Load(server.port, "scaled", connections=16, pause_s=0.05) as load:
        server.ok("rollout", "start", "scaled", "--to", "2", "--steps", "5,25,50,100", "--auto")
        wait_until(lambda: rollout(server)["state"] != "running", "the rollout ends", 600)
        ended = rollout(server)
    assert_unharmed(load)
    assert ended["state"] == "promoted", ended["reason"]
    assert [weight for _, _, weight in events(server)] == [0.0, 5.0, 25.0, 50.0, 100.0]
    shown = {metric["name"]: metric["verdict"] for metric in ended["metrics"]}
    assert shown["error_rate"] in ("equivalent", "better")
    assert shown["latency_p95"] in ("equivalent", "better")


KAYENTA = """
method: kayenta
slice_s: 1
warmup_s: 1
metrics:
  - {name: errors, kind: error_rate, max_increase: 0}
"""


@pytest.fixture
def looked_at_often(home: Path) -> None:
    """Have it counted several times a slice, so that each slice has a value of its own."""
    home.mkdir()
    (home / "salver.yaml").write_text("control: {snapshot_interval_s: 0.2}\n")


@pytest.mark.usefixtures("looked_at_often")
def test_kayentas_test_judges_time_slices(server: Server, tmp_path: Path) -> None:
    """After fifty of them a version that fails is rolled back, and one that does not promoted."""
    analysis = tmp_path / "kayenta.yaml"
    analysis.write_text(KAYENTA)
    for share in (0, 10):
        path, example = coded(tmp_path / f"m{share}", share)
        server.push(path, "flaky", "--trust-code", "--example", str(example))
    two_versions(server, tmp_path)
    server.ok("deploy", "flaky:1", "--endpoint", "flaky")
    with Load(server.port, "flaky", connections=4) as bad, Load(server.port, "scaled", 4) as good:
        for endpoint in ("flaky", "scaled"):
            server.ok("rollout", "start", endpoint, "--to", "2", "--steps", "50", "--auto",
                      "--analysis", str(analysis))  # fmt: skip
        ended = ends(server, "rolled_back", "flaky")
        promoted = ends(server, "promoted", "scaled")
    assert_unharmed(good)
    assert bad.broken == bad.wrong == 0
    assert "errors is worse" in ended["reason"]
    assert promoted["metrics"][0]["verdict"] == "equivalent"
    assert promoted["metrics"][0]["n_canary"] == 50


def test_a_version_that_cannot_be_loaded_gets_no_request(server: Server, tmp_path: Path) -> None:
    """Damaged bytes are found before any traffic, and the rollout ends with the cause."""
    two_versions(server, tmp_path)
    model = models.onnx_identity("FP32", 3).read_bytes()
    blobs = (server.home / "blobs" / "sha256").glob("??/*")
    (blob,) = [path for path in blobs if path.read_bytes() == model]
    blob.write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    with Load(server.port, "scaled", connections=8) as load:
        server.ok("rollout", "start", "scaled", "--to", "2")
        ended = ends(server, "rolled_back")
    assert_unharmed(load)
    assert set(load.factors) == {2.0}
    assert "cannot be loaded" in ended["reason"]
    assert events(server)[-1][0] == "roll_back"


def test_golden_examples_are_asked_in_the_worker(server: Server, tmp_path: Path) -> None:
    """A version whose answers in its worker are not the golden ones never gets a request."""
    source = """
        import os
        import numpy as np


        class Model:
            def predict(self, inputs):
                # Right where it is examined, wrong where it serves.
                serves = os.path.exists(WITNESS)
                return {"y": (5 if serves else 2) * inputs["x"]}
    """
    witness = tmp_path / "serving"
    server.push(*first(tmp_path), "--trust-code")
    folder = tmp_path / "second"
    folder.mkdir()
    (folder / "model.py").write_text(dedent(source).replace("WITNESS", repr(str(witness))))
    rows = tmp_path / "second.json"
    rows.write_text(json.dumps({"inputs": [item(4.0)]}))
    server.push(folder, "scaled", "--trust-code", "--example", str(rows))
    server.ok("deploy", "scaled:1", "--endpoint", "scaled")
    witness.touch()
    with Load(server.port, "scaled", connections=8) as load:
        done = server.salver("deploy", "scaled:2", "--endpoint", "scaled")
        assert b"[golden_mismatch]" in done.stderr
        server.ok("rollback", "scaled")
        server.ok("rollout", "start", "scaled", "--to", "2", "--force")
        ended = ends(server, "rolled_back")
    assert_unharmed(load)
    assert set(load.factors) == {2.0}
    assert "20.0" in ended["reason"]


def item(number: float) -> dict[str, Any]:
    """Return one number as the protocol writes it."""
    return {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number]}


def first(folder: Path) -> tuple[Path, str, str, str]:
    """Return what to push as a first version that is code."""
    path, example = coded(folder / "first", 0)
    return path, "scaled", "--example", str(example)


def test_a_person_pauses_resumes_promotes_and_aborts(server: Server, tmp_path: Path) -> None:
    """What a person says is done, refused with the reason where it does not fit, and written."""
    two_versions(server, tmp_path)
    done = server.salver("rollout", "status", "scaled")
    assert b"[rollout_not_found]" in done.stderr
    done = server.salver("rollout", "start", "scaled", "--to", "1")
    assert b"[conflict]" in done.stderr
    done = server.salver("rollout", "start", "scaled", "--to", "7")
    assert b"[version_not_found]" in done.stderr
    done = server.salver("rollout", "start", "scaled", "--to", "2", "--steps", "50,5")
    assert b"[invalid_request]" in done.stderr
    server.ok("rollout", "start", "scaled", "--to", "2", "--min-requests", "1000000")
    for command in (
        ("rollout", "start", "scaled", "--to", "2"),
        ("deploy", "scaled:2", "--endpoint", "scaled"),
        ("undeploy", "scaled"),
    ):
        assert b"[rollout_active]" in server.salver(*command).stderr
    wait_until(lambda: rollout(server)["step"] == 1, "the first step")
    assert "paused" in server.ok("rollout", "pause", "scaled", "--reason", "lunch")
    assert b"[conflict]" in server.salver("rollout", "pause", "scaled").stderr
    assert "running" in server.ok("rollout", "resume", "scaled")
    assert "promoted" in server.ok("rollout", "promote", "scaled")
    assert b"[conflict]" in server.salver("rollout", "abort", "scaled").stderr
    wait_until(lambda: doubled(server) == [15.0], "the new version answers")
    assert "scaled:1" in server.ok("rollback", "scaled", "--reason", "no")
    assert doubled(server) == [10.0]
    newest = server.json("rollout", "history", "scaled")[0]
    assert (newest["event"], newest["evidence"]) == (
        "go_back", {"from": "scaled:2", "to": "scaled:1"},
    )  # fmt: skip
    assert "taken back since: from scaled:2 to scaled:1" in server.ok("rollout", "status", "scaled")
    assert rollout(server)["weights"] == {"scaled:1": 100.0, "scaled:2": 0.0}
    server.ok("rollout", "start", "scaled", "--to", "2", "--force", "--strategy", "manual")
    wait_until(lambda: rollout(server)["step"] == 1, "the new version is loaded")
    server.ok("rollout", "set-weight", "scaled", "99.99")
    wait_until(lambda: doubled(server) == [15.0], "the new version answers")
    assert "rolled_back" in server.ok("rollout", "abort", "scaled")
    wait_until(lambda: doubled(server) == [10.0], "the old version answers")
    server.ok("rollout", "start", "scaled", "--to", "2", "--force", "--strategy", "manual")
    wait_until(lambda: rollout(server)["step"] == 1, "the new version is loaded")
    server.ok("rollout", "set-weight", "scaled", "99.99")
    wait_until(lambda: doubled(server) == [15.0], "the new version answers")
    assert "scaled:1" in server.ok("rollback", "scaled", "--reason", "at once")
    assert [doubled(server) for _ in range(50)] == [[10.0]] * 50, "it was not in force"
    who = {event["event"]: event["actor"] for event in server.json("rollout", "history", "scaled")}
    assert set(who) == {
        "start", "step", "pause", "resume", "promote", "go_back", "weight", "roll_back",
    }  # fmt: skip
    assert who["step"] == "salver"


def doubled(server: Server) -> Any:
    """Return what the endpoint makes of 5."""
    return ask(server.port, "scaled", 5.0)[1]["outputs"][0]["data"]


def test_a_frozen_endpoint_stays_as_it_is(server: Server, tmp_path: Path) -> None:
    """Every change is refused with who froze it and why; answers go on; a rollout is paused."""
    two_versions(server, tmp_path)
    server.ok("alias", "scaled@champion", "1")
    server.ok("deploy", "scaled@champion", "--endpoint", "champ")
    server.ok("rollout", "start", "scaled", "--to", "2", "--min-requests", "1000000")
    for endpoint in ("scaled", "champ"):
        server.ok("freeze", endpoint, "--reason", "outage")
    assert rollout(server)["state"] == "paused"
    for command in (
        ("rollout", "resume", "scaled"),
        ("rollout", "promote", "scaled"),
        ("rollback", "scaled"),
        ("deploy", "scaled:2", "--endpoint", "scaled"),
        ("undeploy", "scaled"),
        ("alias", "scaled@champion", "2"),
    ):
        done = server.salver(*command)
        assert b"[endpoint_frozen]" in done.stderr
        assert b"outage" in done.stderr
    assert ask(server.port, "scaled", 5.0)[0] == 200
    assert "outage" in server.ok("rollout", "status", "scaled")
    server.ok("unfreeze", "scaled")
    assert b"[conflict]" in server.salver("unfreeze", "scaled").stderr
    server.ok("rollout", "resume", "scaled")
    server.ok("rollout", "abort", "scaled")


def test_moving_an_alias_starts_its_endpoints_rollout(server: Server, tmp_path: Path) -> None:
    """With a policy the endpoint changes over step by step, without one at once."""
    for scale in (2, 3):
        push(server, tmp_path, scale)
    server.ok("alias", "scaled@champion", "1")
    server.ok("deploy", "scaled@champion", "--endpoint", "plain")
    server.ok(
        "deploy", "scaled@champion", "--endpoint", "careful", "--rollout-steps", "20,50",
        "--rollout-auto",
    )  # fmt: skip
    with Load(server.port, "careful", connections=16) as load:
        server.ok("alias", "scaled@champion", "2")
        wait_until(lambda: ask(server.port, "plain", 5.0)[1]["model_version"] == "2", "plain")
        wait_until(lambda: events(server, "careful") != [], "the rollout has begun")
        ends(server, "promoted", "careful")
    assert_unharmed(load)
    assert events(server, "careful")[0] == ("start", "running", 0.0)
    with server.client() as client:
        (first_event,) = [e for e in client.rollout_history("careful") if e["event"] == "start"]
    assert first_event["actor"] == "alias champion"
    server.ok("rollback", "plain")
    assert ask(server.port, "plain", 5.0)[1]["model_version"] == "1"
    server.ok("rollback", "careful")
    time.sleep(3)
    assert ask(server.port, "careful", 5.0)[1]["model_version"] == "1"
    assert rollout(server, "careful")["state"] == "promoted"


def test_versions_that_callers_would_notice_are_refused(server: Server, tmp_path: Path) -> None:
    """Another signature is refused with what differs, for rollouts, deploys and aliases."""
    push(server, tmp_path, 2)
    server.push(models.xgboost_iris("json"), "scaled")
    server.ok("alias", "scaled@champion", "1")
    server.ok("deploy", "scaled@champion", "--endpoint", "scaled")
    server.ok("alias", "scaled@slowly", "1")
    server.ok("deploy", "scaled@slowly", "--endpoint", "slow", "--rollout-steps", "5,50")
    for command in (
        ("rollout", "start", "scaled", "--to", "2"),
        ("deploy", "scaled:2", "--endpoint", "scaled"),
        ("alias", "scaled@champion", "2"),
        ("alias", "scaled@slowly", "2"),
    ):
        done = server.salver(*command)
        assert b"[signature_changed]" in done.stderr
        assert b"input 'x'" in done.stderr
    told = server.ok("alias", "scaled@slowly", "2", "--force")
    assert "endpoint 'slow' stays" in told
    assert "salver rollout start slow --to scaled:2 --force" in told
    server.ok("alias", "scaled@champion", "2", "--force")
