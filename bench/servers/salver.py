"""Salver, started by its own command: one gateway, one worker, key check on."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, ClassVar

from bench.environments import BENCH, wheel_environment
from bench.failure import BenchError
from bench.grpc_message import PATH
from bench.processes import Group
from bench.servers.base import Server
from bench.wire_http import Target, free_port

COMMAND_TIMEOUT_S = 120.0


class Salver(Server):
    """`provision` pushes and deploys; `launch` is `salver up` on that home."""

    name = "salver"
    settings: ClassVar[dict[str, dict[str, Any]]] = {}
    binary = True
    grpc = True
    _port = 0
    _grpc_port = 0
    _key = ""
    _salver = Path()

    def provision(self) -> None:
        """Fill a home: start once, push and deploy each model, stop."""
        self.begin()
        self.command(*self._up(), "--detach")
        try:
            self.fill()
        finally:
            self.command("stop")

    def fill(self) -> None:
        """Push and deploy."""
        for model in self.models:
            path = str(self.workspace.models / f"{model}.onnx")
            example = str(self.workspace.models / f"{model}-example.json")
            self.command("push", path, "--name", model, "--example", example)
            self.command("deploy", f"{model}:1")

    def begin(self) -> None:
        """Make an empty home and a key."""
        self._salver = self._executable()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._key = secrets.token_urlsafe(24)
        digest = hashlib.sha256(self._key.encode()).hexdigest()
        keys = {"keys": [{"sha256": digest, "principal": "bench"}]}
        (self.folder / "keys.yaml").write_text(json.dumps(keys))
        (self.folder / "home").mkdir()
        if self.settings:
            (self.folder / "home" / "salver.yaml").write_text(json.dumps(self.settings))

    def _executable(self) -> Path:
        """Return the command of the checkout's own environment."""
        path = BENCH.parent / ".venv" / "bin" / "salver"
        if not path.is_file():
            raise BenchError(f"{path} is missing; run: make env")
        return path

    def _up(self) -> list[str]:
        self._port, self._grpc_port = free_port(), free_port()
        ports = ["--http-port", str(self._port), "--control-port", str(free_port())]
        ports += ["--grpc-port", str(self._grpc_port)]
        home = ["--home", str(self.folder / "home")]
        return ["up", *home, *ports, "--gateways", "1", "--api-keys", f"{self.folder}/keys.yaml"]

    def _environment(self) -> dict[str, str]:
        return {"SALVER_HOME": str(self.folder / "home")}

    def command(self, *arguments: str) -> str:
        """Run one `salver` command to its end, and return what it says."""
        done = subprocess.run(
            [str(self._salver), *arguments],
            env={**os.environ, **self._environment()},
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        if done.returncode:
            text = (done.stdout + done.stderr)[-2000:]
            raise BenchError(f"salver {' '.join(arguments)} failed ({done.returncode}):\n{text}")
        return done.stdout

    def launch(self) -> None:
        """Start `salver up` in the foreground of its own group."""
        command: list[str | Path] = [self._salver, *self._up()]
        self.spawn(Group(command, self.folder / "server.log", self._environment()))

    def kill_worker(self) -> bool:
        """End the one worker that serves; the supervisor starts another."""
        table = json.loads((self.folder / "home" / "run" / "processes.json").read_text())
        (pid,) = [p["pid"] for p in table["processes"] if p["identity"] == "shared-0"]
        os.kill(pid, signal.SIGKILL)
        return True

    def tabular(self) -> Target:
        """OIP over HTTP, with the key."""
        return self.endpoint("tabular")

    def identity(self) -> Target:
        """OIP over HTTP with the binary tensor extension, with the key."""
        return self.endpoint("identity")

    def rpc(self) -> Target:
        """OIP over gRPC, with the key in the metadata."""
        return Target(self._grpc_port, PATH, {"authorization": f"Bearer {self._key}"})

    def endpoint(self, model: str) -> Target:
        """Where an endpoint answers, with the key."""
        headers = {"Authorization": f"Bearer {self._key}"}
        return Target(self._port, f"/v2/models/{model}/infer", headers)


class CompiledSalver(Salver):
    """The same out of the wheel whose gateway is compiled (`make wheel`)."""

    name = "salver-compiled"

    def _executable(self) -> Path:
        """Return the command of the environment that holds the wheel."""
        return wheel_environment(self.name) / "bin" / "salver"
