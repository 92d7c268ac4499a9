"""Engine client and worker alone: microseconds per request on each side, without HTTP.

Run: `python -m bench.engine_loop [--requests N] [--in-flight N] [--profile] [--plain]`.
The worker is a process of its own behind a Unix socket; the model is one small ONNX graph. With
`--megabytes N` each request carries one tensor of that size instead and the answer is its sum.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import hashlib
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import uvloop
from onnx import TensorProto, helper

from salver.core.clock import SystemClock
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.errors import SalverError
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.settings import EngineSettings
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.engine.client.handler import EngineClient
from salver.observe.meter import Meter
from salver.wire.messages import (
    PROTOCOL_VERSION,
    EndpointPlan,
    FileRef,
    Hello,
    Load,
    Plan,
    VariantPlan,
    WorkerPlan,
)
from salver.wire.planfile import write_plan
from salver.wire.transport import LinkOptions

FEATURES = 30
VARIANT = "tiny:1"
_SECOND_NS = 1_000_000_000


def tiny_graph() -> bytes:
    """Return `y = x·w` with 30 features and two answers."""
    weights = np.linspace(-1, 1, FEATURES * 2, dtype=np.float32).reshape(FEATURES, 2)
    return _graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        FEATURES,
        2,
        [onnx.numpy_helper.from_array(weights, "w")],
    )


def sum_graph(columns: int) -> bytes:
    """Return a graph that reads a wide tensor and answers one number per row."""
    node = helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=1)
    return _graph([node], columns, 1, [])


def _graph(
    nodes: list[onnx.NodeProto], columns: int, answers: int, weights: list[onnx.TensorProto]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", answers])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def provision(home: Path, graph: bytes, columns: int, answers: int) -> Plan:
    """Store the graph and a plan with one worker that hosts it."""
    digest = hashlib.sha256(graph).hexdigest()
    blob = home / "blobs" / "sha256" / digest[:2] / digest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(graph)
    (home / "run").mkdir()
    signature = Signature(
        (TensorSpec("x", "FP32", (-1, columns)),), (TensorSpec("y", "FP32", (-1, answers)),)
    )
    files = (FileRef("model.onnx", digest, len(graph)),)
    load = Load(VARIANT, digest, "onnx", files, "local", signature)
    worker = WorkerPlan("shared-0", "shared", f"unix:{home}/run/worker-shared-0.sock", (load,))
    variant = VariantPlan(
        VARIANT, "primary", "tiny", "1", digest, "onnx", 10_000, 1, signature, (worker.id,)
    )
    plan = Plan(1, 0, (EndpointPlan("tiny", (variant,)),), (worker,))
    write_plan(home / "run" / "plan.msgpack", plan)
    return plan


class Caller:
    """Keeps a fixed number of requests in flight until `total` were answered."""

    def __init__(self, client: EngineClient, rows: list[Tensor], total: int) -> None:
        self._client = client
        self._rows = rows
        self._left = total
        self.open = 0
        self.failed: list[SalverError] = []
        self.done = asyncio.get_running_loop().create_future()

    def ask(self) -> None:
        """Send one request."""
        now_ns = time.monotonic_ns()
        context = RequestContext("0" * 40, ANONYMOUS, now_ns, now_ns + 30 * _SECOND_NS)
        context.variant = VARIANT
        self._left -= 1
        self.open += 1
        row = self._rows[self._left % len(self._rows)]
        self._client(InferenceRequest("tiny", [row]), context, self)

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Take an answer; ask again."""
        del response, final
        self.open -= 1
        if self._left:
            self.ask()
        elif not self.open:
            self.done.set_result(None)

    def fail(self, error: SalverError) -> None:
        """Count a failure; ask again."""
        self.failed.append(error)
        self.send(InferenceResponse([]))


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(plan: Plan, worker: int, options: argparse.Namespace, rows: list[Tensor]) -> None:
    """Warm up, measure, print."""
    hello = Hello(PROTOCOL_VERSION, "gateway", "bench", "0")
    client = EngineClient(
        hello, EngineSettings(), SystemClock(), Meter(), LinkOptions(coalesce=not options.plain)
    )
    await client.start()
    client.apply(plan)
    async with asyncio.timeout(20):
        while not client.is_ready(VARIANT):  # noqa: ASYNC110 - once, before anything is measured
            await asyncio.sleep(0.01)
    await _run(client, rows, max(options.requests // 10, 1), options.in_flight)
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    wall, own, other = time.perf_counter(), time.process_time(), cpu_seconds(worker)
    caller = await _run(client, rows, options.requests, options.in_flight)
    wall = time.perf_counter() - wall
    own, other = time.process_time() - own, cpu_seconds(worker) - other
    profile.disable()
    scale = 1e6 / options.requests
    size = rows[0].size_bytes * options.requests
    print(
        f"{options.requests / wall:,.0f} requests/s at {options.in_flight} in flight; per request: "
        f"wall {wall * scale:.2f} µs, client CPU {own * scale:.2f} µs, worker CPU "
        f"{other * scale:.2f} µs; payload {size / wall / 1e9:.2f} GB/s; {len(caller.failed)} failed"
    )
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(20)
    await client.stop()


async def _run(client: EngineClient, rows: list[Tensor], total: int, in_flight: int) -> Caller:
    caller = Caller(client, rows, total)
    for _ in range(min(in_flight, total)):
        caller.ask()
    await caller.done
    return caller


def main() -> None:
    """Start the worker, measure, end the worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--megabytes", type=int, default=0)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--plain", action="store_true", help="one write for each message")
    options = parser.parse_args()
    columns = options.megabytes * 1_000_000 // 4 or FEATURES
    graph = sum_graph(columns) if options.megabytes else tiny_graph()
    random = np.random.default_rng(1)
    arrays = random.random((4, 1, columns), dtype=np.float32)
    rows = [Tensor.from_array("x", array) for array in arrays]
    if not options.megabytes:
        rows = [Tensor(row.name, row.datatype, row.shape, bytes(row.buffer)) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        plan = provision(home, graph, columns, 1 if options.megabytes else 2)
        command = [sys.executable, "-m", "salver.engine", "--id", "shared-0", "--home", folder]
        with subprocess.Popen(command) as worker:
            try:
                uvloop.run(measure(plan, worker.pid, options, rows))
            finally:
                worker.terminate()


if __name__ == "__main__":
    main()
