"""Rollouts whose traffic stops, or whose primary goes, on a running server: people are asked."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, ask, wait_until, write_rows
from tests.e2e.test_code import one_number, write
from tests.e2e.test_rollouts import ends, events, rollout

EXPIRES = """
import pathlib

class Model:
    def load(self, path):
        if pathlib.Path(WITNESS).exists():
            raise RuntimeError("the licence has expired")

    def predict(self, inputs):
        # It answers its golden example, 2, and a quarter of all.
        if pathlib.Path(HARM).exists() and inputs["x"][0, 0] % 4 != 2:
            raise ValueError("cannot say")
        return {"y": FACTOR * inputs["x"]}
"""
# Whatever is seen of a canary that answers is good enough, so that only silence is in the way.
LAX = """
warmup_s: 3
warmup_requests: 1
promote_on: no_worse
metrics:
  - {name: error_rate, kind: error_rate, max_increase: 0.5}
"""
# So many requests are more than those in between that nobody counts, and show every harm here.
ENOUGH = 300
QUICK = "supervisor: {backoff_initial_s: 0.05, backoff_max_s: 0.2}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server whose processes come back soon."""
    home = tmp_path_factory.mktemp("home")
    (home / "salver.yaml").write_text(QUICK)
    with Server(home) as running:
        yield running


@pytest.fixture
def lax(tmp_path: Path) -> tuple[str, ...]:
    """Give the options of a rollout that would be promoted after ``--min-requests``."""
    path = tmp_path / "lax.yaml"
    path.write_text(LAX)
    return "--auto", "--analysis", str(path)


def test_silence_is_no_success(server: Server, tmp_path: Path, lax: tuple[str, ...]) -> None:
    """Without requests, from the beginning or in a later step, nothing moves until people say so.

    Traffic that comes back does not resume by itself what has been paused.
    """
    rows = write_rows(tmp_path / "rows.json", [[1.0]])
    for scale in (2, 3):
        server.push(models.onnx_identity("FP32", scale), "quiet", "--example", str(rows))
    server.ok("deploy", "quiet:1", "--endpoint", "quiet")
    server.ok("rollout", "start", "quiet", "--to", "2", "--steps", "20,50", *lax,
              "--min-requests", "1", "--no-traffic", "3s", "--step-time", "8s")  # fmt: skip
    said = ends(server, "paused", "quiet")
    assert "the canary has had no request for" in said["reason"]
    assert said["weights"] == {"quiet:1": 80.0, "quiet:2": 20.0}
    assert "salver rollout resume quiet" in said["next"]
    with Load(server.port, "quiet", 8) as load:
        wait_until(lambda: load.answered > 300, "traffic")
        assert rollout(server, "quiet")["state"] == "paused"
        server.ok("rollout", "resume", "quiet")
        wait_until(lambda: rollout(server, "quiet")["step"] == 2, "the second step")
    assert_unharmed(load)
    assert "no request for" in ends(server, "paused", "quiet")["reason"]
    assert [(event, weight) for event, _, weight in events(server, "quiet")] == [
        ("start", 0.0),
        ("step", 20.0),
        ("pause", 20.0),
        ("resume", 20.0),
        ("step", 50.0),
        ("pause", 50.0),
    ]
    with Load(server.port, "quiet", 8) as load:
        server.ok("rollout", "resume", "quiet")
        ends(server, "promoted", "quiet")
    assert_unharmed(load)


def test_a_primary_that_is_gone_promotes_nobody(
    server: Server, tmp_path: Path, lax: tuple[str, ...]
) -> None:
    """A canary that is the only one to answer waits for a person, with its weight as it was.

    When the primary is back, a person lets it go on, and it is judged by what comes then: one that
    fails is rolled back, though the primary has failed far more.
    """
    harm, never = tmp_path / "harm", tmp_path / "never"
    witness, example = tmp_path / "expired", one_number(tmp_path / "one.json", 2.0)
    for factor in (2, 3):
        is_primary = factor == 2
        code = EXPIRES.replace("FACTOR", str(factor))
        code = code.replace("WITNESS", repr(str(witness if is_primary else never)))
        code = code.replace("HARM", repr(str(never if is_primary else harm)))
        path = write(tmp_path / f"m{factor}", code)
        server.push(path, "expiring", "--trust-code", "--example", str(example))
    server.ok("deploy", "expiring:1", "--endpoint", "expiring")
    (worker,) = [
        w["id"]
        for w in server.json("get", "workers")
        if w["models"] == ["expiring:1"] and w["kind"] == "dedicated"
    ]
    server.ok("rollout", "start", "expiring", "--to", "2", "--steps", "50", *lax,
              "--min-requests", str(ENOUGH))  # fmt: skip
    wait_until(lambda: rollout(server, "expiring")["step"] == 1, "the first step")
    witness.touch()
    pid = server.pid_of(worker)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with Load(server.port, "expiring", 8) as load:
        said = ends(server, "paused", "expiring")
    assert "expiring:1, the primary, cannot answer" in said["reason"]
    assert said["weights"] == {"expiring:1": 50.0, "expiring:2": 50.0}
    assert set(load.factors) == {3.0}
    assert load.factors[3.0] > ENOUGH
    assert load.wrong == 0
    # Who was drawn to the primary is told so, and not sent to a version that nobody approved of.
    assert load.failed
    assert all(status.startswith("5") for status in load.failed)
    assert [event for event, _, _ in events(server, "expiring")] == ["start", "step", "pause"]
    witness.unlink()
    server.kill(worker)
    wait_until(
        lambda: {ask(server.port, "expiring", 1.0)[0] for _ in range(12)} == {200}, "both answer"
    )
    # Before it does harm, which would end it though it is paused; a few requests promote nobody.
    server.ok("rollout", "resume", "expiring")
    harm.touch()
    with Load(server.port, "expiring", 8) as load:
        ended = ends(server, "rolled_back", "expiring")
    assert "error_rate is worse" in ended["reason"]
    assert ended["gaps"] == 1
    assert set(load.failed) == {"500 model_failed"}
