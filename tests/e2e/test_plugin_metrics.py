"""A metric that is installed beside Salver judges a rollout on a running server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from salver.core.exits import BAD_SETTINGS
from tests import models
from tests.e2e.load import Load
from tests.e2e.server import Server, wait_until, write_rows

MODULE = """
from salver.rollout.metrics.base import compared, events
from salver.rollout.tally import REQUESTS


def visits(question):
    # The canary has as many visits as requests, and the primary none: a harm that is always seen.
    canaries = {id(each.block.canary) for each in question.observed}
    return compared(
        question,
        events(
            question,
            lambda _, rows: rows[:, REQUESTS],
            lambda layout, rows: rows[:, REQUESTS] * (id(layout) in canaries),
        ),
    )
"""
ANALYSIS = """
warmup_s: 1
warmup_requests: 5
metrics:
  - {name: seen, kind: visits, max_increase: 0.01}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder on the path of every process, in which a package with a metric is installed."""
    path = tmp_path / "site"
    facts = path / "acme-1.0.dist-info"
    facts.mkdir(parents=True)
    (path / "acme_metrics.py").write_text(MODULE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[salver.metrics]\nvisits = acme_metrics:visits\n")
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{path}{os.pathsep}{known}" if known else str(path))
    return path


@pytest.mark.usefixtures("folder")
def test_a_metric_of_an_installed_package_rolls_back(home: Path, tmp_path: Path) -> None:
    """Files may name its kind, and what it says of the canary decides."""
    analysis = tmp_path / "analysis.yaml"
    analysis.write_text(ANALYSIS)
    rows = write_rows(tmp_path / "rows.json", [[1.0]])
    with Server(home) as server:
        for scale in (2, 3):
            server.push(models.onnx_identity("FP32", scale), "scaled", "--example", str(rows))
        server.ok("deploy", "scaled:1", "--endpoint", "scaled")
        file = tmp_path / "e.yaml"
        named = (
            "kind: Endpoint\nname: other\nmodel: scaled:1\nrollout: {analysis: {metrics: [%s]}}\n"
        )
        file.write_text(named % "{name: a, kind: vists, max_increase: 1}")
        refused = server.salver("apply", "-f", str(file), "--dry-run").stderr.decode()
        assert "e.yaml: rollout.analysis: there is no metric of kind 'vists'" in refused
        assert "did you mean 'visits'?" in refused
        file.write_text(named % "{name: a, kind: visits, max_increase: 1}")
        server.ok("apply", "-f", str(file), "--dry-run")
        with Load(server.port, "scaled", connections=8), server.client() as client:
            server.ok(
                "rollout", "start", "scaled", "--to", "2", "--steps", "20,50",
                "--min-requests", "100000", "--analysis", str(analysis),
            )  # fmt: skip
            wait_until(lambda: client.rollout("scaled")["state"] == "rolled_back", "it ends", 120)
            assert "seen is worse by" in client.rollout("scaled")["reason"]


def test_a_control_without_the_package_says_what_is_missing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its start, in one line with a code."""
    monkeypatch.setenv("SALVER_CONTROL__METRIC_PLUGINS", "visits=acme_metrics:visits")
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "salver.control", "--home", str(home), "--port", "0"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == BAD_SETTINGS
    told = done.stderr.decode().strip().splitlines()[-1]
    assert "the metric 'visits' cannot be loaded from acme_metrics:visits" in told
    assert "No module named 'acme_metrics'" in told
    assert told.endswith("[invalid_settings]")
