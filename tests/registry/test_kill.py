"""An acknowledged registry write survives kill -9 at any moment."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KILLS = 500


def test_five_hundred_kills_lose_no_acknowledged_write(tmp_path: Path) -> None:
    """Versions, aliases and bytes that were acknowledged before a kill are there after it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.registry.kill_trial", str(tmp_path), str(KILLS), "1"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr.decode()
    outcome = json.loads(done.stdout)
    print(outcome)
    assert outcome["lost"] == []
    assert outcome["acknowledged"] > 2 * KILLS
