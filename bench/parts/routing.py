"""What a canary adds to a request, in memory: Salver alone (`bench/routing_loop.py`)."""

from __future__ import annotations

from bench.modules import run_module
from bench.options import Options
from bench.results import Results
from bench.workspace import Workspace

TIMEOUT_S = 120.0


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Measure once a round, each time in a process of its own."""
    del workspace
    for _ in range(options.rounds):
        failed = "the routing loop failed"
        found = run_module("bench.routing_loop", timeout_s=TIMEOUT_S, failed=failed)
        for way, (one_us, canary_us) in found.items():
            results.routing.setdefault(way, []).append(canary_us - one_us)
            print(f"routing, {way}: a canary adds {canary_us - one_us:.2f} us", flush=True)
