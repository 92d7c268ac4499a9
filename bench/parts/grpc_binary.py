"""Tensors of 32 × 3 × 224 × 224 FP32 (19.3 MB) there and back over gRPC, sent by `h2load`."""

from __future__ import annotations

from contextlib import ExitStack

from bench import h2load
from bench.environments import debian_tool
from bench.failure import BenchError
from bench.grpc_check import check_echo
from bench.grpc_message import infer_request, with_prefix
from bench.options import Options
from bench.parts.binary import CONNECTIONS, SHAPE, SIZE_BYTES, make_tensor
from bench.parts.grpc import Load
from bench.results import Results, Transfer
from bench.servers.table import SERVERS
from bench.workspace import Workspace


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Start the servers that have the identity model and gRPC; measure in interleaved rounds."""
    debian_tool("/usr/bin/h2load", "nghttp2-client")
    body = workspace.run / "identity.bin"
    body.write_bytes(with_prefix(infer_request("identity", "image", SHAPE, make_tensor())))
    with ExitStack() as stack:
        loads = []
        for name in options.servers:
            if name not in SERVERS:
                continue
            if not (SERVERS[name].grpc and SERVERS[name].binary):
                continue
            server = SERVERS[name](workspace, ("tabular", "identity"), with_grpc=True)
            server.provision()
            stack.callback(server.stop)
            server.start()
            answer_bytes = check_echo(server, body)
            print(f"{name}: the tensor came back over gRPC", flush=True)
            loads.append(Load(name, server.rpc(), body, answer_bytes))
        for number in range(options.rounds):
            for connections in CONNECTIONS:
                for load in loads:
                    transfer(load, connections, options.warm_up_s)
                    figure = transfer(load, connections, options.seconds)
                    by_count = results.grpc_binary.setdefault(load.name, {})
                    by_count.setdefault(connections, []).append(figure)
                    print(
                        f"round {number + 1}  gRPC c={connections:<3} {load.name:<9}"
                        f"{figure.gb_per_s:6.2f} GB/s  p50 {figure.p50_ms:.1f} ms",
                        flush=True,
                    )


def transfer(load: Load, connections: int, seconds: float) -> Transfer:
    """Measure connections with one call at a time. Raises `BenchError` if a call failed."""
    shape = h2load.Shape(connections, 1, seconds)
    sample = h2load.measure(load.target, load.body, shape, load.answer_bytes)
    if sample.errors:
        raise BenchError(f"{load.name}: {sample.errors} calls with large tensors failed")
    return Transfer(
        connections=connections,
        requests_per_s=sample.requests_per_s,
        gb_per_s=2 * SIZE_BYTES * sample.requests_per_s / 1e9,
        p50_ms=sample.p50_us / 1e3,
        p99_ms=sample.p99_us / 1e3,
    )
