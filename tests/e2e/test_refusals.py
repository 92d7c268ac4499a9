"""A canary that refuses what the primary takes, on a running server with real traffic."""

from pathlib import Path

from tests import models
from tests.e2e.load import Load
from tests.e2e.server import Server, wait_until

NARROW = """
inputs: [{name: x, datatype: FP32, shape: [-1, -1]}]
before:
  - {step: cast, to: {x: INT16}}
  - {step: cast, to: {x: FP32}}
"""
QUICK = """
warmup_s: 1
promote_on: no_worse
latency_floor_s: 0.05
"""


def test_a_version_that_refuses_what_the_other_takes_is_rolled_back(
    home: Path, tmp_path: Path
) -> None:
    """Its step takes no number over 32767, which some callers have: they are told 400."""
    analysis = tmp_path / "analysis.yaml"
    analysis.write_text(QUICK)
    steps = tmp_path / "narrow.yaml"
    steps.write_text(NARROW)
    with Server(home) as server:
        server.push_scaled(tmp_path, 2)
        example = str(tmp_path / "rows.json")
        model = models.onnx_identity("FP32", 3)
        server.push(model, "scaled", "--steps", str(steps), "--example", example)
        server.ok("deploy", "scaled:1", "--endpoint", "scaled")
        with Load(server.port, "scaled", connections=40) as load:
            server.ok("rollout", "start", "scaled", "--to", "2", "--steps", "20,50", "--auto",
                      "--min-requests", "100000", "--analysis", str(analysis))  # fmt: skip
            with server.client() as client:
                wait_until(lambda: client.rollout("scaled")["state"] == "rolled_back", "harm", 120)
                ended = client.rollout("scaled")
        assert set(load.failed) == {"400 invalid_tensor"}
        assert load.broken == load.wrong == 0
        assert "refusal_rate is worse" in ended["reason"]
        assert "error_rate is worse" not in ended["reason"]
