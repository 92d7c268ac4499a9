"""What a canary adds to a request, in memory: Salver alone (`bench/routing_loop.py`)."""

from __future__ import annotations

import json
import subprocess

from bench.environments import BENCH
from bench.failure import BenchError
from bench.options import Options
from bench.results import Results
from bench.workspace import Workspace

TIMEOUT_S = 120.0


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Measure once a round, each time in a process of its own."""
    del workspace
    python = BENCH.parent / ".venv" / "bin" / "python"
    for _ in range(options.rounds):
        done = subprocess.run(
            [str(python), "-m", "bench.routing_loop", "--json"],
            cwd=BENCH.parent,
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        if done.returncode:
            raise BenchError(f"the routing loop failed:\n{done.stderr[-2000:]}")
        for way, added_us in json.loads(done.stdout).items():
            results.routing.setdefault(way, []).append(added_us)
            print(f"routing, {way}: a canary adds {added_us:.2f} us", flush=True)
