"""Modules of the bench that need Salver's own environment, run in a process of their own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from bench.environments import BENCH
from bench.failure import BenchError

TAIL = 2000


def run_module(name: str, *arguments: Path, timeout_s: float, failed: str) -> dict[str, Any]:
    """Return the document that a module prints; raises `BenchError`: `failed`, and its output."""
    python = BENCH.parent / ".venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", name, *arguments],
        cwd=BENCH.parent,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if done.returncode:
        raise BenchError(f"{failed}:\n{(done.stdout + done.stderr)[-TAIL:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
