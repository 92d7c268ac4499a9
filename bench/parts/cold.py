"""Seconds from a request for a model with no replica to its answer: Salver, in three ways.

The peers have nothing to compare: they keep a model loaded, or wait for an explicit call.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any, ClassVar

from bench.failure import BenchError
from bench.options import Options
from bench.results import Results
from bench.servers.salver import Salver
from bench.wire_http import Connection
from bench.workspace import Workspace

STARTS = 12
ASLEEP_TIMEOUT_S = 60.0
REST_S = 2.0
"""Between a worker's end and the next request; the pool is full again by then."""

MODEL = """
from pathlib import Path

import onnxruntime


class Model:
    def load(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path / "tabular.onnx"), options)
        self.names = [output.name for output in self.session.get_outputs()]

    def predict(self, inputs):
        return dict(zip(self.names, self.session.run(self.names, inputs)))
"""


class ColdSalver(Salver):
    """Salver with the tabular model in a process of its own, or in the shared one, while asked."""

    worker: ClassVar[str] = "dedicated-tabular-1-0"
    warm_processes: ClassVar[int] = 1

    def provision(self) -> None:
        """Push the model as code around ONNX Runtime, so that it gets a process of its own."""
        self.begin()
        folder = self.folder / "coded"
        folder.mkdir()
        (folder / "model.py").write_text(MODEL)
        shutil.copy(self.workspace.models / "tabular.onnx", folder)
        example = self.folder / "case.json"
        document: dict[str, Any] = json.loads(self.workspace.cases()[0].body)
        example.write_text(json.dumps({"inputs": document["inputs"]}))
        self.serve(
            "push", str(folder), "--name", "tabular", "--trust-code", "--example", str(example)
        )

    def serve(self, *push: str) -> None:
        """Push and deploy in a server of its own."""
        self.command(*self._up(), "--detach")
        try:
            self.command(*push)
            self.command("deploy", "tabular:1", "--min-replicas", "0", "--idle", "1s")
        finally:
            self.command("stop")

    def _environment(self) -> dict[str, str]:
        warm = {"SALVER_SUPERVISOR__WARM_PROCESSES": str(self.warm_processes)}
        return {**super()._environment(), **warm}

    def wait_asleep(self) -> None:
        """Return when no process of the model runs, and the server has had time to rest."""
        table = self.folder / "home" / "run" / "processes.json"
        end = time.monotonic() + ASLEEP_TIMEOUT_S
        while any(
            p["identity"] == self.worker and p["pid"] is not None
            for p in json.loads(table.read_text())["processes"]
        ):
            if time.monotonic() > end:
                raise BenchError(f"{self.worker} does not leave; see {self.folder}")
            time.sleep(0.05)
        time.sleep(REST_S)


class AnewSalver(ColdSalver):
    """The same without warm processes."""

    warm_processes = 0


class SharedSalver(ColdSalver):
    """The ONNX file itself in the shared worker, which stays."""

    worker = "none"

    def provision(self) -> None:
        """Push the ONNX file."""
        self.begin()
        model = str(self.workspace.models / "tabular.onnx")
        example = str(self.workspace.models / "tabular-example.json")
        self.serve("push", model, "--name", "tabular", "--example", example)


WAYS = {
    "own process, warm": ColdSalver,
    "own process, started anew": AnewSalver,
    "shared worker": SharedSalver,
}


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Measure each way in turn, from idle to idle."""
    del options
    body = workspace.cases()[0].body
    for way, make in WAYS.items():
        server = make(workspace, ("tabular",))
        server.provision()
        try:
            server.start()
            for _ in range(STARTS):
                server.wait_asleep()
                begin = time.perf_counter()
                connection = Connection(server.tabular(), timeout_s=30.0, answer_limit=1 << 16)
                answer = connection.post(body, {"Content-Type": "application/json"})
                seconds = time.perf_counter() - begin
                connection.close()
                if answer.status != 200:
                    raise BenchError(f"{way}: status {answer.status}")
                results.cold.setdefault(way, []).append(seconds)
        finally:
            server.stop()
        print(f"cold {way}: {[round(s, 3) for s in results.cold[way]]}", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
