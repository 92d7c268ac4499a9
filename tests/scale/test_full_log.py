"""The supervisor on a full disk."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_children_are_kept_alive_on_a_full_disk(tmp_path: Path) -> None:
    """What dies is started again where the log takes nothing, and where a start fails once."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tests.scale.full_log", str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0
    # Three kills, one start that failed, and one process that gave no sign of life.
    assert done.stdout == b"5\n"
