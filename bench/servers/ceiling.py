"""The ceiling: `bench/ceiling/gateway.py`, `grpc_gateway.py` beside it, and `worker.py`."""

from __future__ import annotations

import time
from pathlib import Path

from bench.environments import BENCH, environment
from bench.failure import BenchError
from bench.grpc_message import PATH
from bench.processes import Group
from bench.servers.base import START_TIMEOUT_S, Server
from bench.wire_http import Target, free_port

SOCKET = "worker.sock"
ENVIRONMENT = {"PYTHONPATH": str(BENCH.parent)}


class Ceiling(Server):
    """A bare gateway process and a bare worker process."""

    name = "ceiling"
    grpc = True
    _port = 0
    _grpc_port = 0
    _python = Path()

    def provision(self) -> None:
        """Make the environment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._python = environment("ceiling") / "bin" / "python"

    def launch(self) -> None:
        """Start the worker, then each gateway, which connects to it once."""
        self._port = free_port()
        socket = self.folder / SOCKET
        socket.unlink(missing_ok=True)
        model = self.workspace.models / "tabular.onnx"
        worker: list[str | Path] = [self._python, "-m", "bench.ceiling.worker", socket, model]
        self.spawn(Group(worker, self.folder / "worker.log", ENVIRONMENT))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not socket.exists():
            self.groups[0].check()
            if time.monotonic() > deadline:
                raise BenchError(f"the ceiling's worker did not listen; see {self.folder}")
            time.sleep(0.005)
        self._gateway("gateway", self._port)
        if self.with_grpc:
            self._grpc_port = free_port()
            self._gateway("grpc_gateway", self._grpc_port)

    def _gateway(self, module: str, port: int) -> None:
        python = str(self._python)
        command = [python, "-m", f"bench.ceiling.{module}", f"{self.folder}/{SOCKET}", str(port)]
        self.spawn(Group(command, self.folder / f"{module}.log", ENVIRONMENT))

    def tabular(self) -> Target:
        """Any path answers."""
        return Target(self._port, "/v2/models/tabular/infer")

    def rpc(self) -> Target:
        """Any path answers."""
        return Target(self._grpc_port, PATH)
