"""Whatever control has acknowledged over HTTP survives kill -9 at any moment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 500


@pytest.mark.timeout(1800)
def test_five_hundred_kills_of_control_lose_nothing_acknowledged(tmp_path: Path) -> None:
    """Uploads, versions and alias moves are there, and the alias leads to a stored version.

    Control is killed during pushes and alias moves, and restarted on the same socket.
    """
    command = [sys.executable, "-m", "tests.control.kill_trial", str(tmp_path), str(KILLS), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=1750)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    print(outcome)
    assert outcome["lost"] == []
    assert outcome["kills"] == KILLS
    assert outcome["acknowledged"]["alias"] >= KILLS * 0.9
    assert outcome["acknowledged"]["version"] >= KILLS * 0.1
