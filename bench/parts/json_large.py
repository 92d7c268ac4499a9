"""One image of 150,528 numbers as OIP JSON through an identity model: requests per second."""

from __future__ import annotations

import json
from contextlib import ExitStack

from bench.check import difference
from bench.environments import debian_tool
from bench.failure import BenchError
from bench.load import measure, write_script
from bench.options import Options
from bench.results import JSON_LARGE_CONNECTIONS, Results
from bench.servers.base import Server
from bench.servers.table import SERVERS
from bench.wire_http import Connection
from bench.workspace import Workspace

SHAPE = (1, 3, 224, 224)
NUMBERS = 3 * 224 * 224
ANSWER_LIMIT_BYTES = 1 << 23
TIMEOUT_S = 30.0


def make_body() -> tuple[bytes, list[float]]:
    """Return one request, and the numbers in it."""
    data = [round(number * 37 % 256 / 255, 6) for number in range(NUMBERS)]
    entry = {"name": "image", "shape": SHAPE, "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [entry]}, separators=(",", ":")).encode(), data


def check_numbers(server: Server, body: bytes, data: list[float]) -> None:
    """Every number must come back."""
    connection = Connection(server.identity(), TIMEOUT_S, ANSWER_LIMIT_BYTES)
    try:
        answer = connection.post(body, {"Content-Type": "application/json"})
        text = bytes(answer.body)
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"{server.name} answered {answer.status}: {text[:500]!r}")
    outputs = {entry["name"]: entry["data"] for entry in json.loads(text)["outputs"]}
    if difference(outputs, {"copy": data}):
        raise BenchError(f"{server.name}: the identity model changed the numbers")


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Start the servers that have the identity model and measure them in interleaved rounds."""
    debian_tool("/usr/bin/wrk", "wrk")
    body, data = make_body()
    with ExitStack() as stack:
        loads = []
        for name in options.servers:
            if name not in SERVERS:
                continue
            if not SERVERS[name].binary:
                continue
            server = SERVERS[name](workspace, ("tabular", "identity"))
            server.provision()
            stack.callback(server.stop)
            server.start()
            check_numbers(server, body, data)
            print(f"{name}: {NUMBERS:,} numbers came back as JSON", flush=True)
            target = server.identity()
            loads.append((name, target, write_script(server.folder, target, body)))
        for number in range(options.rounds):
            for name, target, script in loads:
                measure(target, script, JSON_LARGE_CONNECTIONS, options.warm_up_s)
                sample = measure(target, script, JSON_LARGE_CONNECTIONS, options.seconds)
                results.json_large.setdefault(name, []).append(sample)
                print(
                    f"round {number + 1}  JSON {NUMBERS:,} numbers  {name:<9}"
                    f"{sample.requests_per_s:>7,.1f}/s  p50 {sample.p50_us / 1e3:.1f} ms",
                    flush=True,
                )
