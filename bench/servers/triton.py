"""Triton out of the wheel `nvidia-pytriton`, with its Python backend."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.environments import BENCH, debian_tool, environment, site_packages
from bench.grpc_message import PATH
from bench.processes import Group
from bench.servers.base import Server
from bench.wire_http import Target, free_port

LIBPYTHON = "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0"
HTTP_THREADS = 1
"""Its best on two cores shared with the load generator; see ADR 0011."""

GRPC_POOL = 64
"""As many calls as are in flight: beyond its pool Triton makes each request anew."""


class Triton(Server):
    """Triton's HTTP front, and its gRPC front where that is measured; metrics are off."""

    name = "triton"
    binary = True
    grpc = True
    _port = 0
    _grpc_port = 0
    _site = Path()

    def provision(self) -> None:
        """Make the environment, the backend folder and the model repository."""
        debian_tool(LIBPYTHON, "libpython3.11")
        self._site = site_packages(environment("triton"))
        wheel = self._site / "pytriton" / "tritonserver"
        backend = self.folder / "backends" / "python"
        shutil.copytree(wheel / "backends" / "python", backend, dirs_exist_ok=True)
        stub = "triton_python_backend_stub"
        shutil.copy(wheel / "python_backend_stubs" / "3.11" / stub, backend / stub)
        # What another part left there would be loaded too.
        shutil.rmtree(self.folder / "models", ignore_errors=True)
        self.fill()

    def fill(self) -> None:
        """Write the model repository."""
        for model in self.models:
            source = BENCH / "peers" / "triton"
            self.add(model, source / f"{model}.py", (source / f"{model}.pbtxt").read_text())

    def add(self, name: str, code: Path, config: str) -> None:
        """Add a model to the repository."""
        target = self.folder / "models" / name
        (target / "1").mkdir(parents=True, exist_ok=True)
        shutil.copy(code, target / "1" / "model.py")
        (target / "config.pbtxt").write_text(config)

    def environment(self) -> dict[str, str]:
        """Variables that the models read."""
        return {"BENCH_TABULAR_MODEL": str(self.workspace.models / "tabular.onnx")}

    def launch(self) -> None:
        """Start `tritonserver`; the stub links Debian's Python, hence PYTHONHOME."""
        self._port, self._grpc_port = free_port(), free_port()
        env = {
            "PYTHONHOME": "/usr",
            "LD_LIBRARY_PATH": str(self._site / "nvidia_pytriton.libs"),
            "BENCH_SITE_PACKAGES": str(self._site),
            **self.environment(),
        }
        command: list[str | Path] = [
            self._site / "pytriton" / "tritonserver" / "bin" / "tritonserver",
            f"--model-repository={self.folder / 'models'}",
            f"--backend-directory={self.folder / 'backends'}",
            "--http-address=127.0.0.1",
            f"--http-port={self._port}",
            f"--http-thread-count={HTTP_THREADS}",
            f"--allow-grpc={str(self.with_grpc).lower()}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._grpc_port}",
            f"--grpc-infer-allocation-pool-size={GRPC_POOL}",
            "--allow-metrics=false",
        ]
        self.spawn(Group(command, self.folder / "server.log", env))

    def tabular(self) -> Target:
        """OIP over HTTP."""
        return self.model("tabular")

    def identity(self) -> Target:
        """OIP over HTTP with the binary tensor extension."""
        return self.model("identity")

    def model(self, name: str) -> Target:
        """Where a model answers."""
        return Target(self._port, f"/v2/models/{name}/infer")

    def rpc(self) -> Target:
        """OIP over gRPC."""
        return Target(self._grpc_port, PATH)
