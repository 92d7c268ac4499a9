"""The ceiling: `bench/ceiling/gateway.py` and `bench/ceiling/worker.py`."""

from __future__ import annotations

import time
from pathlib import Path

from bench.environments import BENCH, environment
from bench.failure import BenchError
from bench.processes import Group
from bench.servers.base import START_TIMEOUT_S, Server
from bench.wire_http import Target, free_port


class Ceiling(Server):
    """A bare gateway process and a bare worker process."""

    name = "ceiling"
    _port = 0
    _python = Path()

    def provision(self) -> None:
        """Make the environment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._python = environment("ceiling") / "bin" / "python"

    def launch(self) -> None:
        """Start the worker, then the gateway, which connects to it once."""
        self._port = free_port()
        socket = self.folder / "worker.sock"
        socket.unlink(missing_ok=True)
        env = {"PYTHONPATH": str(BENCH.parent)}
        model = self.workspace.models / "tabular.onnx"
        worker: list[str | Path] = [self._python, "-m", "bench.ceiling.worker", socket, model]
        self.spawn(Group(worker, self.folder / "worker.log", env))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not socket.exists():
            self.groups[0].check()
            if time.monotonic() > deadline:
                raise BenchError(f"the ceiling's worker did not listen; see {self.folder}")
            time.sleep(0.005)
        gateway: list[str | Path] = [
            self._python,
            "-m",
            "bench.ceiling.gateway",
            socket,
            str(self._port),
        ]
        self.spawn(Group(gateway, self.folder / "gateway.log", env))

    def tabular(self) -> Target:
        """Any path answers."""
        return Target(self._port, "/v2/models/tabular/infer")
