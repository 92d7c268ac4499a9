"""One row per ModelInfer call over gRPC, with metadata that stays and that changes in each call."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import h2load
from bench.environments import debian_tool
from bench.failure import BenchError
from bench.grpc_check import check_calls, client, write_bodies
from bench.load import Sample
from bench.options import Options
from bench.results import GRPC_VARIANTS, Results
from bench.servers.table import SERVERS
from bench.wire_http import Target
from bench.workspace import Workspace

CONNECTIONS, STREAMS = 4, 16
BUSY_SHARE = 0.95
"""From here on the load generator of our own has no time left, and its figure is a lower bound."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent to one server; `answer_bytes` is the size of its right answer."""

    name: str
    target: Target
    body: Path
    answer_bytes: int


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Start every server that speaks gRPC, check its answers, measure in interleaved rounds."""
    debian_tool("/usr/bin/h2load", "nghttp2-client")
    cases = workspace.cases()
    with ExitStack() as stack:
        loads = []
        for name in options.servers:
            if name not in SERVERS:
                continue
            if not SERVERS[name].grpc:
                continue
            server = SERVERS[name](workspace, ("tabular",), with_grpc=True)
            server.provision()
            stack.callback(server.stop)
            server.start()
            bodies = write_bodies(server.folder, cases)
            answer_bytes = check_calls(server, bodies, cases)
            print(f"{name}: right answers to {len(cases)} gRPC calls", flush=True)
            loads.append(Load(name, server.rpc(), bodies[0], answer_bytes))
        for number in range(options.rounds):
            for variant in GRPC_VARIANTS:
                for load in loads:
                    measure(load, variant, options.warm_up_s)
                    sample = measure(load, variant, options.seconds)
                    by_variant = results.grpc.setdefault(load.name, {})
                    by_variant.setdefault(variant, []).append(sample)
                    print(
                        f"round {number + 1}  gRPC {variant:<9}{load.name:<9}"
                        f"{sample.requests_per_s:>9,.0f}/s  p50 {sample.p50_us:,.0f} us"
                        f"  p99 {sample.p99_us:,.0f} us",
                        flush=True,
                    )


def measure(load: Load, variant: str, seconds: float) -> Sample:
    """Run one load generator once. Raises `BenchError` if no call succeeded."""
    if variant == "constant":
        shape = h2load.Shape(CONNECTIONS, STREAMS, seconds)
        return h2load.measure(load.target, load.body, shape, load.answer_bytes)
    found = client(
        "bench.grpc_load",
        str(load.target.port),
        str(load.body),
        json.dumps(dict(load.target.headers)),
        str(seconds),
        str(CONNECTIONS),
        str(STREAMS),
        timeout_s=seconds + 60,
    )
    if not found["requests_per_s"]:
        raise BenchError(f"{load.name}: no gRPC call succeeded ({found['errors']} errors)")
    if found["cpu_share"] > BUSY_SHARE:
        print(f"{load.name}: the load generator was busy all the time", flush=True)
    return Sample(found["requests_per_s"], found["p50_us"], found["p99_us"], int(found["errors"]))
