"""One row per request as OIP JSON: requests per second and latency, in interleaved rounds."""

from __future__ import annotations

from contextlib import ExitStack

from bench.check import check_answers
from bench.environments import debian_tool
from bench.load import measure, write_script
from bench.options import Options
from bench.results import Results
from bench.servers.table import SERVERS
from bench.workspace import Workspace


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Start every server, check its answers, then measure them in turn, round by round.

    All servers stay up: figures drift from minute to minute, and only neighbours compare.
    """
    debian_tool("/usr/bin/wrk", "wrk")
    cases = workspace.cases()
    with ExitStack() as stack:
        loads = []
        for name in options.servers:
            if name not in SERVERS:
                continue
            server = SERVERS[name](workspace, ("tabular",))
            server.provision()
            stack.callback(server.stop)
            server.start()
            check_answers(server, cases)
            print(f"{name}: right answers to {len(cases)} bodies", flush=True)
            loads.append((server, write_script(server.folder, server.tabular(), cases[0].body)))
        for number in range(options.rounds):
            for connections in options.connections:
                for server, script in loads:
                    measure(server.tabular(), script, connections, options.warm_up_s)
                    sample = measure(server.tabular(), script, connections, options.seconds)
                    by_count = results.tabular.setdefault(server.name, {})
                    by_count.setdefault(connections, []).append(sample)
                    print(
                        f"round {number + 1}  c={connections:<3} {server.name:<9}"
                        f"{sample.requests_per_s:>9,.0f}/s  p50 {sample.p50_us:,.0f} us"
                        f"  p99 {sample.p99_us:,.0f} us",
                        flush=True,
                    )
