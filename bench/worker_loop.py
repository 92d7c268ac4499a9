"""A worker's path in memory: microseconds of Python per batch, without sockets.

Run: `python -m bench.worker_loop [--members N] [--model FILE] [--differ] [--one-by-one]`. A cohort
is fed into a gateway's link as the socket would, and what the worker writes is dropped. What is
left is everything a worker does for a batch but the system calls, the model's run included; with
`--empty` the run is a model that does nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine_loop import FEATURES, tiny_graph
from bench.memory_loop import Sink, feed
from salver.core.clock import SystemClock
from salver.core.garbage import settle
from salver.core.settings import EngineSettings
from salver.core.signature import VARIABLE, Signature, TensorSpec
from salver.core.tensor import AnyArray
from salver.engine.ledger import Ledger, new_name
from salver.engine.worker.host import BatchHost
from salver.engine.worker.link import GatewayLink
from salver.engine.worker.loading import Loading
from salver.observe.meter import Meter
from salver.runtimes.base import Batch, BatchRuntime, RuntimeOptions
from salver.runtimes.table import create_batch
from salver.wire.connection import Connection, LinkLimits
from salver.wire.framing import encode
from salver.wire.messages import (
    PROTOCOL_VERSION,
    Hello,
    Infer,
    InferMany,
    Load,
    TensorHeader,
    Watch,
)

ROUNDS, TURNS = 30, 300
VARIANT = "m:1"


_SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (VARIABLE, FEATURES)),),
    (TensorSpec("label", "INT64", (VARIABLE,)), TensorSpec("y", "FP32", (VARIABLE, 2))),
)


class Empty:
    """Runtime that answers each row with a label and two numbers, without a look at it."""

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Nothing to load."""

    def signature(self) -> Signature | None:
        """Return one input and two outputs."""
        return _SIGNATURE

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Return prepared arrays of as many rows."""
        del outputs
        (given,) = batch.values()
        return answers(len(given))

    def unload(self) -> None:
        """Nothing to release."""


_ANSWERS: dict[int, dict[str, AnyArray]] = {}


def answers(rows: int) -> Batch:
    """Return arrays of so many rows, made once."""
    known = _ANSWERS.get(rows)
    if known is None:
        label, pair = np.zeros(rows, np.int64), np.zeros((rows, 2), np.float32)
        known = _ANSWERS[rows] = {"label": label, "probabilities": pair}
    return known


class InMemory:
    """A worker's parts between one gateway and one model."""

    def __init__(self, folder: Path, runtime: BatchRuntime) -> None:
        clock, meter = SystemClock(), Meter()
        signature = runtime.signature() or _SIGNATURE
        self.name = signature.inputs[0].name
        load = Load(VARIANT, "0" * 64, "onnx", (), "local", signature)
        loading: Loading[BatchRuntime] = Loading(
            load, lambda _: runtime, clock, meter, lambda: None, 60.0
        )
        loading.state, loading.runtime = "ready", runtime
        self.host = BatchHost(loading, EngineSettings(runner="inline"), clock, meter)
        hello = Hello(PROTOCOL_VERSION, "worker", "w", "0")

        def accept(connection: Connection) -> GatewayLink:
            return GatewayLink(
                connection,
                {VARIANT: self.host}.get,
                lambda _: None,
                joins=True,
                folder=folder,
                is_only=lambda: True,
            )

        self.gateway = Connection(hello, accept, initiator=False, limits=LinkLimits(1 << 30))
        self.sink = Counting()
        self.gateway.connection_made(self.sink)  # type: ignore[arg-type]
        feed(self.gateway, encode(Hello(PROTOCOL_VERSION, "gateway", "g", "0"), 0))
        name = new_name("w")
        self.ledger = Ledger.create(folder, name)
        feed(self.gateway, encode(Watch(name), 0))
        self.last_id = 0

    def frame(self, members: int, *, differ: bool, single: bool) -> bytes:
        """Return what a gateway sends for a turn of so many requests of one row."""
        header = (TensorHeader(self.name, "FP32", (1, FEATURES), 4 * FEATURES),)
        row = np.linspace(0.1, 20, FEATURES, dtype=np.float32).tobytes()
        ids = tuple(range(self.last_id + 1, self.last_id + 1 + members))
        self.last_id += members
        if single or members == 1:
            message = [Infer(n, VARIANT, header, 30_000_000, "0" * 40) for n in ids]
            return b"".join([encode(one, len(row)) + row for one in message])
        times = tuple([30_000_000 + 7 * n for n in range(members if differ else 1)])
        many = InferMany(ids, VARIANT, header, times, ())
        return encode(many, members * len(row)) + row * members


class Counting(Sink):
    """Sink that counts what it is given."""

    def __init__(self) -> None:
        self.writes = self.size_bytes = 0

    def write(self, data: Any) -> None:
        """Count, and drop."""
        self.writes += 1
        self.size_bytes += len(data)


async def measure(path: InMemory, members: int, options: argparse.Namespace) -> float:
    """Return the least microseconds per batch over some rounds."""
    best = float("inf")
    profile = cProfile.Profile()
    for _ in range(ROUNDS):
        made = [
            path.frame(members, differ=options.differ, single=options.one_by_one)
            for _ in range(TURNS)
        ]
        if options.profile:
            profile.enable()
        begin = time.process_time()
        for data in made:
            feed(path.gateway, data)
        best = min(best, (time.process_time() - begin) / TURNS)
        profile.disable()
        await asyncio.sleep(0)
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    return best * 1e6


def loaded(options: argparse.Namespace, folder: Path) -> BatchRuntime:
    """Return the runtime with its model."""
    if options.empty:
        return Empty()
    graph = Path(options.model).read_bytes() if options.model else tiny_graph()
    (folder / "model.onnx").write_bytes(graph)
    runtime = create_batch("onnx")
    runtime.load(folder, None, RuntimeOptions())
    return runtime


async def run(options: argparse.Namespace, folder: Path, runtime: BatchRuntime) -> None:
    """Measure."""
    path = InMemory(folder, runtime)
    settle()
    for members in options.members:
        before = path.sink.writes
        figure = await measure(path, members, options)
        writes = (path.sink.writes - before) / ROUNDS / TURNS
        print(f"{figure:.2f} us per batch of {members}, {writes:.2f} writes each")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 8, 28])
    parser.add_argument("--model", help="ONNX file with one FP32 input of 30 features")
    parser.add_argument("--empty", action="store_true", help="a model that does nothing")
    parser.add_argument("--differ", action="store_true", help="a deadline of each request's own")
    parser.add_argument("--one-by-one", action="store_true", help="a message for each request")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runtime = loaded(options, Path(folder))
        asyncio.run(run(options, Path(folder), runtime))


if __name__ == "__main__":
    main()
