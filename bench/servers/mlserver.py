"""MLServer with a custom model, in its own process (`parallel_workers` 0)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from bench.environments import BENCH, environment
from bench.grpc_message import PATH
from bench.processes import Group
from bench.servers.base import Server
from bench.wire_http import Target, free_port


class MLServer(Server):
    """MLServer, of which the bench uses the HTTP front only."""

    name = "mlserver"
    _port = 0
    _grpc_port = 0
    _env = Path()

    def provision(self) -> None:
        """Make the environment and the model folder."""
        self._env = environment("mlserver")
        # What another part left there would be loaded too.
        shutil.rmtree(self.folder, ignore_errors=True)
        self.fill()

    def fill(self) -> None:
        """Write the model folder."""
        self.add("tabular", "tabular", {"implementation": "tabular.Tabular"})

    def add(self, name: str, code: str, settings: dict[str, Any]) -> None:
        """Add a model to the folder."""
        model = self.folder / name
        model.mkdir(parents=True, exist_ok=True)
        shutil.copy(BENCH / "peers" / "mlserver" / f"{code}.py", model / f"{code}.py")
        (model / "model-settings.json").write_text(json.dumps({"name": name, **settings}))

    def environment(self) -> dict[str, str]:
        """Variables that the models read."""
        return {"BENCH_TABULAR_MODEL": str(self.workspace.models / "tabular.onnx")}

    def launch(self) -> None:
        """Start `mlserver`."""
        self._port, self._grpc_port = free_port(), free_port()
        settings = {
            "host": "127.0.0.1",
            "http_port": self._port,
            "grpc_port": self._grpc_port,
            "metrics_port": free_port(),
            "parallel_workers": 0,
            "debug": False,
        }
        (self.folder / "settings.json").write_text(json.dumps(settings))
        env = self.environment()
        command: list[str | Path] = [self._env / "bin" / "mlserver", "start", self.folder]
        self.spawn(Group(command, self.folder / "server.log", env))

    def tabular(self) -> Target:
        """OIP over HTTP."""
        return self.model("tabular")

    def model(self, name: str) -> Target:
        """Where a model answers."""
        return Target(self._port, f"/v2/models/{name}/infer")

    def rpc(self) -> Target:
        """OIP over gRPC, which MLServer always opens."""
        return Target(self._grpc_port, PATH)
