"""Bodies for ModelInfer, and whether a server gives grpcio the right answers to them."""

from __future__ import annotations

import array
import json
import subprocess
from pathlib import Path
from typing import Any

from bench.check import difference
from bench.environments import BENCH, environment
from bench.failure import BenchError
from bench.grpc_message import infer_request, with_prefix
from bench.servers.base import Server
from bench.workspace import Case

CHECK_TIMEOUT_S = 120.0


def client(module: str, *arguments: str, timeout_s: float) -> Any:
    """Run a module of the bench where grpcio is; returns the JSON it printed."""
    python = str(environment("grpc-client") / "bin" / "python")
    done = subprocess.run(
        [python, "-m", module, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=BENCH.parent,
        timeout=timeout_s,
    )
    if done.returncode:
        raise BenchError(f"{module} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def write_bodies(folder: Path, cases: list[Case]) -> list[Path]:
    """Write each case as a message with raw contents and its prefix."""
    paths = []
    for number, case in enumerate(cases):
        (entry,) = json.loads(case.body)["inputs"]
        raw = array.array("f", entry["data"]).tobytes()
        message = infer_request("tabular", entry["name"], entry["shape"], raw)
        paths.append(folder / f"call-{number}.bin")
        paths[-1].write_bytes(with_prefix(message))
    return paths


def check_calls(server: Server, bodies: list[Path], cases: list[Case]) -> int:
    """Send every body; returns the size of the smallest answer with its prefix.

    Raises `BenchError` at the first wrong answer.
    """
    answers = _ask(server, bodies)
    for number, (answer, case) in enumerate(zip(answers, cases, strict=True)):
        if wrong := difference(answer["outputs"], case.outputs):
            raise BenchError(f"{server.name}, gRPC call {number}: {wrong}")
    return min(int(answer["size_bytes"]) for answer in answers)


def check_echo(server: Server, body: Path) -> int:
    """Send a large tensor, which must come back; returns the size of the answer."""
    (answer,) = _ask(server, [body])
    if answer["outputs"] != {"copy": True}:
        raise BenchError(f"{server.name}: the identity model changed the tensor")
    return int(answer["size_bytes"])


def _ask(server: Server, bodies: list[Path]) -> list[dict[str, Any]]:
    target = server.rpc()
    metadata = json.dumps(dict(target.headers))
    files = [str(body) for body in bodies]
    answers: list[dict[str, Any]] = client(
        "bench.grpc_client", str(target.port), metadata, *files, timeout_s=CHECK_TIMEOUT_S
    )
    return answers
