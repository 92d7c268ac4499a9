"""Canaries that one metric alone gives away are rolled back by a running server, with no help."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver import Client
from tests import models
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, wait_until, write_rows
from tests.e2e.test_code import one_number, write

LABELLED = """
import numpy as np


class Model:
    def predict(self, inputs):
        x = inputs["x"]
        is_yes = (x[:, 0].astype(np.int64) * 7919) % 100 < SHARE
        return {"y": 2 * x, "label": is_yes.astype(np.int64)}
"""
SLEEPING = """
import time


class Model:
    def predict(self, inputs):
        time.sleep(SECONDS)
        return {"y": 2 * inputs["x"]}
"""
# Errors and latency are compared too, and are not what decides.
COMMON = """
warmup_s: 1
warmup_requests: 5
latency_floor_s: 1
labels: ["0", "1"]
score_edges: [10000, 20000, 30000]
metrics:
  - {name: error_rate, kind: error_rate, max_increase: 0.01}
  - {name: latency_p50, kind: latency, quantile: 0.5, max_increase: 0.5, relative: true}
"""
CLASSES = "  - {name: classes, kind: class_share, max_increase: 0.05, direction: either}\n"
SCORES = "  - {name: scores, kind: score, max_increase: 0.05, direction: either}\n"
CONVERSION = """\
  - {name: conversion, kind: feedback_rate, max_increase: 0.05, direction: decrease}
"""
LATENCY = """
warmup_s: 1
warmup_requests: 5
metrics:
  - {name: error_rate, kind: error_rate, max_increase: 0.01}
  - {name: latency_p95, kind: latency, quantile: 0.95, max_increase: 0.03, relative: true}
"""
REVENUE = """\
  - {name: revenue, kind: feedback_mean, max_increase: 2, direction: decrease,
     minimum: 0, maximum: 100}
"""
ANSWERS = 50
OTHERS = frozenset({"error_rate", "latency_p50"})


def begin(server: Server, folder: Path, name: str, chosen: str) -> None:
    """Serve the first of two versions, and begin a rollout to the second."""
    server.ok("deploy", f"{name}:1", "--endpoint", name)
    analysis = folder / f"{name}.yaml"
    analysis.write_text(chosen)
    server.ok(
        "rollout", "start", name, "--to", "2", "--steps", "50", "--auto",
        "--min-requests", "1000000", "--analysis", str(analysis),
    )  # fmt: skip


def scaled(server: Server, folder: Path, name: str) -> None:
    """Push two versions, of which one doubles and the other trebles."""
    rows = write_rows(folder / "rows.json", [[1.0]])
    for scale in (2, 3):
        server.push(models.onnx_identity("FP32", scale), name, "--example", str(rows))


def ended(server: Server, name: str) -> Callable[[], bool]:
    """Return what tells whether a rollout has come to an end."""

    def has_ended() -> bool:
        with server.client() as client:
            return bool(client.rollout(name)["state"] != "running")

    return has_ended


def evidence(
    server: Server, endpoint: str, name: str, others: frozenset[str] = OTHERS
) -> dict[str, Any]:
    """Return what the history says of the metric that rolled back, and nobody but that did.

    An end of its interval that is open is infinite here.
    """
    event = server.json("rollout", "history", endpoint)[0]
    assert (event["event"], event["actor"], event["state"]) == ("roll_back", "judge", "rolled_back")
    assert event["weight"] == 0
    shown = {metric["name"]: metric for metric in event["evidence"]["metrics"]}
    found: dict[str, Any] = shown.pop(name)
    assert found["verdict"] == "worse"
    assert "worse" not in [metric["verdict"] for metric in shown.values()]
    assert others == shown.keys()
    found["high"] = math.inf if found["high"] is None else found["high"]
    assert found["low"] <= found["estimate"] <= found["high"]
    assert found["n_canary"] > 5
    assert found["n_primary"] > 5
    least = max(found["low"], -found["high"])
    told = f"{name} is worse by {abs(found['estimate']):.3g}, at least {least:.3g}"
    assert event["reason"].startswith(told)
    assert told in server.ok("rollout", "history", endpoint)
    return found


def test_another_share_of_classes(server: Server, tmp_path: Path) -> None:
    """A canary that says yes twice as often goes, and which class it was is told."""
    example = one_number(tmp_path / "one.json", 2.0)
    for share in (30, 60):
        path = write(tmp_path / f"m{share}", LABELLED.replace("SHARE", str(share)))
        server.push(path, "labelled", "--trust-code", "--example", str(example))
    begin(server, tmp_path, "labelled", COMMON + CLASSES)
    with Load(server.port, "labelled", connections=16) as load:
        wait_until(ended(server, "labelled"), "the rollout ends", 60)
    assert_unharmed(load)
    found = evidence(server, "labelled", "classes")
    assert abs(found["extra"]["1"]) == pytest.approx(0.3, abs=0.2)
    assert found["extra"]["psi"] > 0
    assert found["reason"] in ("most moved: 0", "most moved: 1")


def test_another_distribution_of_scores(server: Server, tmp_path: Path) -> None:
    """A canary whose scores are half as much again goes; the index says that they moved."""
    scaled(server, tmp_path, "scored")
    begin(server, tmp_path, "scored", COMMON + SCORES)
    with Load(server.port, "scored", connections=16) as load:
        wait_until(ended(server, "scored"), "the rollout ends", 60)
    assert_unharmed(load)
    found = evidence(server, "scored", "scores")
    assert found["extra"]["psi"] > 0.1
    assert found["reason"].startswith("most moved: above ")


def test_a_slow_canary(server: Server, tmp_path: Path) -> None:
    """A canary that takes ten times as long goes, and the history says about how much slower it is.

    None of its answers is as quick as the primary's usual ones, so nothing but its own quantile
    tells how slow they are.
    """
    example = one_number(tmp_path / "one.json", 2.0)
    for seconds in ("0.004", "0.04"):
        path = write(tmp_path / f"m{seconds}", SLEEPING.replace("SECONDS", seconds))
        server.push(path, "sleeping", "--trust-code", "--example", str(example))
    begin(server, tmp_path, "sleeping", LATENCY)
    # So few that they hardly wait for each other: what is compared is how long the models take.
    with Load(server.port, "sleeping", connections=2, pause_s=0.005) as load:
        wait_until(ended(server, "sleeping"), "the rollout ends", 60)
    assert_unharmed(load)
    found = evidence(server, "sleeping", "latency_p95", frozenset({"error_rate"}))
    assert 1 < found["estimate"] < 30
    # Latencies are known within bins that are 5 % wide.
    assert found["canary"] > 0.04 / 1.05
    assert found["low"] > found["margin"]


def outcome(metric: str, version: str, rng: random.Random) -> float:
    """Return what becomes of an answer: half as much good comes of the second version's."""
    is_good = rng.random() < (0.35 if version == "2" else 0.7)
    return float(is_good) if metric == "conversion" else is_good * rng.uniform(10, 30)


@pytest.mark.parametrize(
    ("metric", "spec"),
    [("conversion", CONVERSION), ("revenue", REVENUE)],
    ids=["rate", "mean"],
)
def test_worse_feedback_over_the_data_port(
    server: Server, tmp_path: Path, metric: str, spec: str
) -> None:
    """A canary whose answers are as quick and as good, and of which less becomes, goes.

    A value that cannot be is refused by its line, and does not hide the others.
    """
    scaled(server, tmp_path, metric)
    begin(server, tmp_path, metric, COMMON + spec)
    rng, lines = random.Random(7), tmp_path / "outcomes.jsonl"
    over, taken = ended(server, metric), 0
    with Client(server.state()["http_url"], home=tmp_path / "nowhere") as client:

        def reported() -> bool:
            nonlocal taken
            answers = [client.predict(metric, np.ones((1, 1), np.float32)) for _ in range(ANSWERS)]
            values = [outcome(metric, answer.version, rng) for answer in answers]
            # Somebody reports nonsense of the version that is to go.
            absurd = next((n for n, one in enumerate(answers) if one.version == "2"), None)
            if absurd is not None:
                values[absurd] = 1e9
            reports = zip([one.request_id for one in answers], values, strict=True)
            lines.write_text(
                "".join(json.dumps({"request_id": i, "value": v}) + "\n" for i, v in reports)
            )
            done = client.feedback_file(metric, lines, metric)
            refused = [] if absurd is None else [(absurd + 1, "invalid_request")]
            is_over = over()
            if not is_over:
                taken += done["taken"]
                assert [(p["number"], p["code"]) for p in done["problems"]] == refused
            return is_over

        wait_until(reported, "the rollout ends", 60)
        found = evidence(server, metric, metric)
        assert found["n_canary"] + found["n_primary"] <= taken + ANSWERS
        assert found["high"] < -found["margin"]
        wait_until(
            lambda: client.predict(metric, np.ones((1, 1), np.float32)).version == "1", "it is gone"
        )
