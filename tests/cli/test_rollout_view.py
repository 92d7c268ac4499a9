"""What people read of a rollout's metrics."""

from typing import Any

import pytest

from salver.cli.rollout_view import status_lines


def status(low: float | None, high: float | None) -> dict[str, Any]:
    """Return a rollout with one metric whose interval has these ends."""
    metric = {
        "name": "latency_p50", "verdict": "worse", "estimate": 0.5, "low": low, "high": high,
        "margin": 0.03, "n_canary": 300, "n_primary": 900,
    }  # fmt: skip
    return {
        "endpoint": "e", "rollout": 1, "strategy": "canary", "state": "running", "awaits": "",
        "step": 1, "steps": [50, 100], "weights": {"1": 50, "2": 50}, "requests": 300, "to": "2",
        "metrics": [metric], "reason": "", "approvals": {"needed": 0, "by": []},
        "time_left_s": None, "next": "it goes on",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.211, 0.75, "[+0.211, +0.75]"),
        (0.211, None, "[+0.211 or more]"),
        (None, -0.2, "[-0.2 or less]"),
        (None, None, "[?, ?]"),
    ],
)
def test_an_open_end_of_an_interval_is_told(
    low: float | None, high: float | None, told: str
) -> None:
    """Nothing stands in the place of a number that nobody knows, where the other end is known."""
    lines = list(status_lines(status(low, high)))
    assert f"  latency_p50: worse, +0.5 {told}, margin 0.03, 300 and 900 requests" in lines
