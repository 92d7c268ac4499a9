"""Tensors of 32 × 3 × 224 × 224 FP32 (19.3 MB) there and back through an identity model."""

from __future__ import annotations

import array
import json
import statistics
import threading
import time
from contextlib import ExitStack

from bench.failure import BenchError
from bench.options import Options
from bench.results import Results, Transfer
from bench.servers.table import SERVERS
from bench.wire_http import Answer, Connection, Target
from bench.workspace import Workspace

SHAPE = (32, 3, 224, 224)
SIZE_BYTES = 4 * 32 * 3 * 224 * 224
CONNECTIONS = (1, 4)
MAX_REQUESTS = 2_000
"""For each connection and measurement; time ends most runs first."""
REQUEST_TIMEOUT_S = 30.0


def make_tensor() -> bytes:
    """The tensor's bytes: a pattern without a period that a copy could hide behind."""
    pattern = array.array("f", [number / 1021 for number in range(1021)]).tobytes()
    return (pattern * (SIZE_BYTES // len(pattern) + 1))[:SIZE_BYTES]


def make_body() -> tuple[bytes, dict[str, str]]:
    """One request in the binary tensor extension, and its headers."""
    head = {
        "inputs": [
            {
                "name": "image",
                "shape": SHAPE,
                "datatype": "FP32",
                "parameters": {"binary_data_size": SIZE_BYTES},
            }
        ],
        "outputs": [{"name": "copy", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(head).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(text)),
    }
    return text + make_tensor(), headers


def payload(answer: Answer) -> memoryview:
    """The tensor bytes of an answer. Raises `BenchError` if it is not a whole identity."""
    if answer.status != 200:
        raise BenchError(
            f"the identity model answered {answer.status}: {bytes(answer.body[:500])!r}"
        )
    tensor = answer.body[int(answer.headers["inference-header-content-length"]) :]
    if len(tensor) != SIZE_BYTES:
        raise BenchError(f"{len(tensor)} tensor bytes came back, {SIZE_BYTES} were sent")
    return tensor


class Caller(threading.Thread):
    """One connection that sends one request after the other until `end`."""

    def __init__(self, target: Target, body: bytes, headers: dict[str, str], end: float) -> None:
        super().__init__(daemon=True)
        self._connection = Connection(target, REQUEST_TIMEOUT_S, SIZE_BYTES + (1 << 16))
        self._body, self._headers, self._end = memoryview(body), headers, end
        self.durations_s: list[float] = []
        self.failure = ""

    def run(self) -> None:
        """Send; a failure ends the thread and is kept in `failure`."""
        try:
            while time.monotonic() < self._end and len(self.durations_s) < MAX_REQUESTS:
                begin = time.monotonic()
                payload(self._connection.post(self._body, self._headers))
                self.durations_s.append(time.monotonic() - begin)
        except (OSError, ValueError, BenchError) as error:
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._connection.close()


def check_identity(target: Target, body: bytes, headers: dict[str, str]) -> None:
    """The tensor must come back byte for byte."""
    connection = Connection(target, REQUEST_TIMEOUT_S, SIZE_BYTES + (1 << 16))
    try:
        if payload(connection.post(body, headers)) != memoryview(body)[-SIZE_BYTES:]:
            raise BenchError("the identity model changed the tensor")
    finally:
        connection.close()


def transfer(
    target: Target, body: bytes, headers: dict[str, str], connections: int, seconds: float
) -> Transfer:
    """Measure `connections` callers for `seconds`."""
    begin = time.monotonic()
    callers = [Caller(target, body, headers, begin + seconds) for _ in range(connections)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(seconds + 2 * REQUEST_TIMEOUT_S)
    elapsed = time.monotonic() - begin
    failed = next((caller.failure for caller in callers if caller.failure), "")
    durations = sorted(duration for caller in callers for duration in caller.durations_s)
    if failed or len(durations) < 2:
        raise BenchError(f"large tensors failed: {failed or 'too few answers'}")
    return Transfer(
        connections=connections,
        requests_per_s=len(durations) / elapsed,
        gb_per_s=2 * SIZE_BYTES * len(durations) / elapsed / 1e9,
        p50_ms=statistics.median(durations) * 1e3,
        p99_ms=durations[min(len(durations) - 1, int(len(durations) * 0.99))] * 1e3,
    )


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Start the servers that take binary tensors and measure them in interleaved rounds."""
    body, headers = make_body()
    with ExitStack() as stack:
        targets = []
        for name in options.servers:
            if name not in SERVERS:
                continue
            server = SERVERS[name](workspace, ("tabular", "identity"))
            if not server.binary:
                continue
            server.provision()
            stack.callback(server.stop)
            server.start()
            check_identity(server.identity(), body, headers)
            targets.append((name, server.identity()))
        for number in range(options.rounds):
            for connections in CONNECTIONS:
                for name, target in targets:
                    transfer(target, body, headers, connections, options.warm_up_s)
                    figure = transfer(target, body, headers, connections, options.seconds)
                    by_count = results.binary.setdefault(name, {})
                    by_count.setdefault(connections, []).append(figure)
                    print(
                        f"round {number + 1}  c={connections:<3} {name:<9}"
                        f"{figure.gb_per_s:6.2f} GB/s  p50 {figure.p50_ms:.1f} ms",
                        flush=True,
                    )
