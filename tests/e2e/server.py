"""A whole server, started and driven through the command line, as a person does it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from salver.client.sync import Client
from tests import models

SALVER = Path(sys.executable).with_name("salver")
_WAIT_S = 60.0


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command line and return what happened."""
    return subprocess.run(
        [str(SALVER), *arguments], input=stdin, capture_output=True, check=False, timeout=180
    )


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = _WAIT_S) -> None:
    """Wait until something holds; fails naming it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def ask(
    port: int, endpoint: str, number: float, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """Send one number over a connection of its own; returns the status and the document."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number]}
    body = json.dumps({"inputs": [tensor]}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_WAIT_S)
    try:
        connection.request("POST", f"/v2/models/{endpoint}/infer", body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def metric(base_url: str, name: str, **labels: str) -> float | None:
    """Return the sum of a metric's samples with these labels, or None when there are none."""
    with urllib.request.urlopen(f"{base_url}/metrics", timeout=_WAIT_S) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    values = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(values) if values else None


class Server:
    """A server in a home folder of its own; a context manager."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self._options = options

    def __enter__(self) -> Self:
        """Start."""
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; leave nothing running even when a test failed in between."""
        pid = self.supervisor_pid()
        self.salver("stop")
        if pid is not None and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)

    def up(self) -> None:
        """Start in the background."""
        done = self.salver(
            "up", "--http-port", "0", "--control-port", "0", "--detach", *self._options
        )
        assert done.returncode == 0, done.stderr.decode()

    def salver(
        self, command: str, *arguments: str, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command against this server."""
        return run(command, *arguments, "--home", str(self.home), stdin=stdin)

    def ok(self, command: str, *arguments: str, stdin: bytes = b"") -> str:
        """Run one command, which must succeed; returns what it printed."""
        done = self.salver(command, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def json(self, command: str, *arguments: str) -> Any:
        """Run one command and return its JSON."""
        return json.loads(self.ok(command, *arguments, "-o", "json"))

    def client(self) -> Client:
        """Return a client of this server."""
        return Client(home=self.home)

    def push(self, path: Path, name: str, *options: str) -> None:
        """Push a model."""
        self.ok("push", str(path), "--name", name, *options)

    def deploy_scaled(self, folder: Path, scale: int = 2, path: Path | None = None) -> None:
        """Push and deploy ``scaled``, which multiplies by ``scale``; ``path`` is another such."""
        self.push_scaled(folder, scale, path)
        self.ok("deploy", "scaled")

    def push_scaled(self, folder: Path, scale: int = 2, path: Path | None = None) -> None:
        """Push the model without deploying it."""
        example = write_rows(folder / "rows.json", [[1.0, 2.0]])
        model = path or models.onnx_identity("FP32", scale)
        self.push(model, "scaled", "--example", str(example))

    def metric(self, name: str, **labels: str) -> float | None:
        """Return a metric of the control port, which knows all processes."""
        return metric(str(self.state()["control_url"]), name, **labels)

    def gateway_metric(self, name: str, **labels: str) -> float | None:
        """Return a metric as the first gateway has it at this moment."""
        facts = json.loads((self.home / "run" / "gateway-0.json").read_text())
        return metric(str(facts["admin_url"]), name, **labels)

    def in_flight(self, endpoint: str) -> float | None:
        """Return how many requests of an endpoint the first gateway is answering."""
        return self.gateway_metric("salver_requests_in_flight", endpoint=endpoint)

    @property
    def port(self) -> int:
        """The data port."""
        return int(str(self.state()["http_url"]).rpartition(":")[2])

    @property
    def grpc_target(self) -> str:
        """Host and port of gRPC."""
        return str(self.state()["grpc_target"])

    def state(self) -> dict[str, Any]:
        """Return what the supervisor wrote down."""
        document: dict[str, Any] = json.loads((self.home / "run" / "supervisor.json").read_text())
        return document

    def supervisor_pid(self) -> int | None:
        """Return the supervisor's pid, or None when there is none."""
        try:
            return int(self.state()["pid"])
        except (OSError, ValueError, KeyError):
            return None

    def pid_of(self, identity: str) -> int | None:
        """Return the pid of one process, or None while it is restarting."""
        table = json.loads((self.home / "run" / "processes.json").read_text())["processes"]
        for entry in table:
            if entry["identity"] == identity:
                pid: int | None = entry["pid"]
                return pid
        return None

    def kill(self, identity: str, when: Callable[[int], bool] | None = None) -> None:
        """kill -9 one process, as soon as ``when`` holds of its pid, and wait for the next one."""
        pid = self.pid_of(identity)
        assert pid is not None
        if when is not None:
            # Without a pause, since what it waits for may be over in a moment.
            deadline = time.monotonic() + _WAIT_S
            while not when(pid):
                assert time.monotonic() < deadline, f"{identity} never came to that"
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: self.pid_of(identity) not in (None, pid), f"{identity} restarted", timeout_s=30
        )


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows as JSON and return the path."""
    path.write_text(json.dumps(rows))
    return path
