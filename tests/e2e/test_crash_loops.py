"""Rollouts to versions whose processes really end: which ends count, and who notices."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import models
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, ask, wait_until
from tests.e2e.test_code import one_number, write
from tests.e2e.test_rollouts import ends, events, rollout

DEADLY = """
import os
import signal

import numpy as np


class Model:
    def predict(self, inputs):
        x = inputs["x"]
        if (x.astype(np.int64) % 100 == DIES).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": 2 * x}
"""
# Nothing is judged by what the canary answers.
ONLY_CRASHES = "warmup_s: 3600\n"
QUICK = "supervisor: {backoff_initial_s: 0.05, backoff_max_s: 0.2}\n"
ROUNDS = 120
OLD, NEW = "scaled/versions/1", "scaled/versions/2"


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    """Give a server whose processes come back soon."""
    home.mkdir(exist_ok=True)
    (home / "salver.yaml").write_text(QUICK)
    with Server(home) as running:
        yield running


@pytest.fixture
def crashes(tmp_path: Path) -> tuple[str, ...]:
    """Give the options of a rollout that only crashes can end."""
    path = tmp_path / "analysis.yaml"
    path.write_text(ONLY_CRASHES)
    return "--steps", "20,50", "--no-traffic", "1h", "--analysis", str(path)


def test_code_that_kills_its_process_is_rolled_back_by_itself(
    server: Server, tmp_path: Path, crashes: tuple[str, ...]
) -> None:
    """Its own callers may be refused while it starts; who asks the primary notices nothing."""
    example = one_number(tmp_path / "rows.json", 2.0)
    for dies in ("-1", "7"):
        path = write(tmp_path / f"m{dies}", DEADLY.replace("DIES", dies))
        server.push(path, "scaled", "--trust-code", "--example", str(example))
    server.ok("deploy", "scaled:1", "--endpoint", "scaled")
    with Load(server.port, "scaled", 16) as load, Load(server.port, OLD, 16) as primary:
        server.ok("rollout", "start", "scaled", "--to", "2", "--auto", *crashes)
        ended = ends(server, "rolled_back")
        after = load.answered, primary.answered
        wait_until(
            lambda: load.answered > after[0] + 300 and primary.answered > after[1] + 300, "traffic"
        )
    assert "ended 3 times" in ended["reason"]
    assert events(server)[-1] == ("roll_back", "rolled_back", 0.0)
    assert ended["weights"] == {"scaled:1": 100.0, "scaled:2": 0.0}
    assert_unharmed(primary)
    assert load.failed.pop("500 worker_crashed") >= 3
    assert set(load.failed) <= {"503 not_ready retry-after"}
    assert load.broken == load.wrong == load.refused == 0


def test_a_shared_worker_that_ends_while_the_canary_works_counts(
    server: Server, tmp_path: Path, crashes: tuple[str, ...]
) -> None:
    """Ends of the same process while it does nothing, or another's work, are not held against it.

    Who is asked again in quarantine is answered, so nobody sees an error.
    """
    server.push_scaled(tmp_path, path=models.onnx_slow(2, ROUNDS))
    server.push_scaled(tmp_path, path=models.onnx_slow(3, ROUNDS))
    server.ok("deploy", "scaled:1", "--endpoint", "scaled")
    server.ok("rollout", "start", "scaled", "--to", "2", *crashes)
    wait_until(lambda: rollout(server)["step"] == 1, "the first step")
    for path in ("", OLD, "", OLD):
        killed_while_asked(server, path, 2.0)
    assert rollout(server)["state"] == "running"
    for _ in range(3):
        assert rollout(server)["state"] == "running"
        killed_while_asked(server, NEW, 3.0)
    assert "ended 3 times" in ends(server, "rolled_back")["reason"]
    wait_until(lambda: ask(server.port, "scaled", 1.0)[0] == 200, "the primary answers")


def killed_while_asked(server: Server, path: str, factor: float) -> None:
    """Kill the shared worker while it works for one request, or none."""
    wait_until(lambda: all(ask(server.port, one, 1.0)[0] == 200 for one in (OLD, NEW)), "it is up")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server.port, path, 5.0) if path else None
        if asked is not None:
            wait_until(lambda: server.in_flight("scaled") == 1, "it is asked")
            # It runs a moment later, and for much longer than that.
            time.sleep(0.3)
        server.kill("shared-0")
        if asked is not None:
            status, document = asked.result()
            assert (status, document["outputs"][0]["data"]) == (200, [5.0 * factor])
