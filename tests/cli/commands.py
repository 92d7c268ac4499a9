"""Runs the command line as a process of its own."""

import subprocess
import sys
from pathlib import Path

PROGRAM = (sys.executable, "-c", "from salver.cli.main import main; main()")


def salver(*words: str, into: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its results go into a file if one is named."""
    with (into or Path("/dev/null")).open("w") as file:
        return subprocess.run(
            [*PROGRAM, *words],
            stdout=subprocess.PIPE if into is None else file,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
            timeout=120,
        )
