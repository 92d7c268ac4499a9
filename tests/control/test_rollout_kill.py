"""A rollout whose control is killed at any moment takes every step once."""

import json
import subprocess
import sys
from pathlib import Path

from tests.control.rollout_trial import STEPS

ROOT = Path(__file__).parents[2]
KILLS = 20


def test_kills_of_control_skip_and_repeat_no_step(tmp_path: Path) -> None:
    """Steps are in the history once and in order, traffic follows them, and no request fails.

    Each request of the canary is counted once: gateways live on, and tell totals.
    """
    command = [sys.executable, "-m", "tests.control.rollout_trial", str(tmp_path), str(KILLS), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    print(outcome)
    assert outcome["state"] == "promoted", outcome["reason"]
    assert outcome["kills"] >= KILLS / 2
    expected = [[0, "start", 0, 0.0]]
    expected += [[n, "step", n, float(part)] for n, part in enumerate(STEPS[:-1], 1)]
    expected.append([len(STEPS), "pause", len(STEPS) - 1, float(STEPS[-2])])
    expected.append([len(STEPS) + 1, "promote", len(STEPS) - 1, 100.0])
    assert outcome["events"] == expected
    seen = outcome["weights"]
    assert seen == sorted(seen)
    assert set(seen) <= {0.0, *map(float, STEPS)}
    assert outcome["failed"] == 0
    assert outcome["answered"] > 1000
    assert outcome["counted"] == [outcome["sent"]]
    assert outcome["sent"] > 100
