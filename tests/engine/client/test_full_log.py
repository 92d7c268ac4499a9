"""A gateway's part on a full disk."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_requests_of_a_dead_worker_are_answered_on_a_full_disk() -> None:
    """Where the log takes nothing, they are tried again, and the link is made anew."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tests.engine.client.full_log"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"ok": 60}
