"""Limits of time that people give on the command line, kept by a running server."""

import http.client
import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, wait_until
from tests.e2e.test_code import one_number, write
from tests.e2e.test_rollouts import ends, events, rollout, two_versions
from tests.gateway.grpc.calls import infer, infer_request, outputs_of

SLOW = """
import time

import numpy as np


class Model:
    def predict(self, inputs):
        x = inputs["x"]
        # As long as the number says.
        time.sleep(float(x.max()))
        return {"y": 2 * x}
"""
LONG_S = 3.0
UNPROVEN = """
warmup_s: 0
warmup_requests: 1
metrics: [{name: error_rate, kind: error_rate, max_increase: 0}]
"""
KAYENTA = "method: kayenta\nmetrics: [%s]\n"


@pytest.fixture(scope="module")
def slow(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Give a server with a model that takes as long as it is told."""
    folder = tmp_path_factory.mktemp("slow")
    example = one_number(folder / "one.json", 0.0)
    server.push(write(folder / "m", SLOW), "slow", "--trust-code", "--example", str(example))
    return server


def ask(server: Server, seconds: float, **parameters: Any) -> tuple[int, Any]:
    """Ask for so long; returns the status and the document."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [seconds]}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        body = json.dumps({"inputs": [item], "parameters": parameters})
        connection.request("POST", "/v2/models/slow/infer", body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_request_has_the_endpoints_time(slow: Server) -> None:
    """Unless it names one; who asks for longer gets its answer, over REST and gRPC."""
    slow.ok("deploy", "slow", "--request-timeout", "1")
    request = infer_request("slow", {"x": np.array([[LONG_S]], np.float32)})
    status, document = ask(slow, LONG_S)
    assert (status, document["code"]) == (504, "deadline_exceeded")
    status, document = ask(slow, LONG_S, timeout=20_000_000)
    assert (status, document["outputs"][0]["data"]) == (200, [2 * LONG_S])
    assert ask(slow, 0.0)[0] == 200
    with grpc.insecure_channel(slow.grpc_target) as channel:
        with pytest.raises(grpc.RpcError) as late:
            infer(channel, request, timeout=None)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert outputs_of(infer(channel, request, timeout=20))["y"].item() == 2 * LONG_S
    slow.ok("deploy", "slow")
    wait_until(lambda: ask(slow, LONG_S)[0] == 200, "it has the usual time again")


def test_an_endpoint_that_names_no_time_has_that_of_the_settings(home: Path) -> None:
    """Over REST and gRPC; one that names a time has its own, and a restart takes a new setting."""
    home.mkdir()
    settings = home / "salver.yaml"
    settings.write_text("http: {request_timeout_s: 1}")
    request = infer_request("slow", {"x": np.array([[LONG_S]], np.float32)})
    with Server(home) as server:
        example = one_number(home / "one.json", 0.0)
        server.push(write(home / "m", SLOW), "slow", "--trust-code", "--example", str(example))
        server.ok("deploy", "slow")
        status, document = ask(server, LONG_S)
        assert (status, document["code"]) == (504, "deadline_exceeded")
        with (
            grpc.insecure_channel(server.grpc_target) as channel,
            pytest.raises(grpc.RpcError) as late,
        ):
            infer(channel, request, timeout=None)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        settings.write_text("http: {request_timeout_s: 20}")
        server.kill("control")
        wait_until(lambda: ask(server, LONG_S)[0] == 200, "the new setting is in force")
        server.ok("deploy", "slow", "--request-timeout", "1")
        assert ask(server, LONG_S)[0] == 504


def test_a_time_that_is_none_is_refused(slow: Server) -> None:
    """Nothing is deployed by it."""
    for wrong in ("0", "-1", "soon"):
        done = slow.salver("deploy", "slow", "--endpoint", "never", "--request-timeout", wrong)
        assert done.returncode == 2
        assert b"--request-timeout" in done.stderr
    assert "never" not in slow.ok("get", "endpoints")


def test_a_rollout_that_takes_too_long_asks_a_person(server: Server, tmp_path: Path) -> None:
    """It keeps its weights; resumed it has all of the time again, and pauses once more."""
    two_versions(server, tmp_path)
    analysis = tmp_path / "analysis.yaml"
    analysis.write_text(UNPROVEN)
    with Load(server.port, "scaled", 8) as load:
        server.ok("rollout", "start", "scaled", "--to", "2", "--steps", "50", "--auto",
                  "--max-duration", "10s", "--analysis", str(analysis))  # fmt: skip
        wait_until(lambda: rollout(server)["step"] == 1, "the first step")
        assert rollout(server)["time_left_s"] <= 10
        said = ends(server, "paused")
        # It is looked at now and then, less often on a busy machine.
        assert said["reason"].startswith(tuple(f"it has taken {n} s" for n in range(10, 16)))
        assert said["weights"] == {"scaled:1": 50.0, "scaled:2": 50.0}
        server.ok("rollout", "resume", "scaled")
        assert rollout(server)["time_left_s"] > 2
        ends(server, "paused")
    assert_unharmed(load)
    told = [event for event, _, _ in events(server)]
    assert told == ["start", "step", "pause", "resume", "pause"]
    server.ok("rollout", "abort", "scaled")
    for wrong in ("-1s", "soon", "2y"):
        done = server.salver("rollout", "start", "scaled", "--to", "2", "--max-duration", wrong)
        assert done.returncode == 2
        assert b"--max-duration" in done.stderr


@pytest.mark.parametrize(
    ("metric", "instead"),
    [
        ("{name: tails, kind: score, max_increase: 1, direction: either}", "needs 'score_edges'"),
        ("{name: tails, kind: class_share, max_increase: 1}", "write 'direction: either'"),
    ],
    ids=["scores", "classes"],
)
def test_what_kayenta_cannot_compare_begins_no_rollout(
    server: Server, tmp_path: Path, metric: str, instead: str
) -> None:
    """It is refused at the start, with a code, the metric's name and what to write instead."""
    analysis = tmp_path / "analysis.yaml"
    analysis.write_text(KAYENTA % metric)
    two_versions(server, tmp_path)
    done = server.salver("rollout", "start", "scaled", "--to", "2", "--force",
                         "--analysis", str(analysis))  # fmt: skip
    assert done.returncode == 1
    told = done.stderr.decode()
    assert "[invalid_settings]" in told
    assert "metric 'tails'" in told
    assert instead in told
