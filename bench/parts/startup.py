"""Seconds from the command to the first right answer, and the memory of all processes then.

Where the model lives in a process of its own, also the seconds from its kill -9 to the next answer.
"""

from __future__ import annotations

import time

from bench.check import check_answers
from bench.options import Options
from bench.results import Results, StartUp
from bench.servers.table import SERVERS
from bench.workspace import Workspace

SETTLE_S = 1.0
"""Between the first answers and the look at memory."""


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Start and stop each server in turn, round by round, with one model."""
    cases = workspace.cases()
    servers = [
        SERVERS[name](workspace, ("tabular",)) for name in options.servers if name in SERVERS
    ]
    for server in servers:
        server.provision()
    for number in range(options.rounds):
        for server in servers:
            try:
                seconds = server.start()
                check_answers(server, cases)
                time.sleep(SETTLE_S)
                memory = server.memory()
                recovery_s = server.recovery()
            finally:
                server.stop()
            figure = StartUp(
                first_answer_s=seconds,
                pss_mb=memory.pss_kib * 1024 / 1e6,
                rss_mb=memory.rss_kib * 1024 / 1e6,
                processes=memory.processes,
                recovery_s=recovery_s,
            )
            results.startup.setdefault(server.name, []).append(figure)
            print(
                f"round {number + 1}  start-up {server.name:<9}{seconds:6.2f} s"
                f"  PSS {figure.pss_mb:.0f} MB  RSS {figure.rss_mb:.0f} MB",
                flush=True,
            )
