"""What processes do when their memory gets short, step by step, and that it goes back.

Their memory is real, and so is the part of it that is in use. The budgets are those of settings:
a control group's limit would be everybody's at once.
"""

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from salver.observe.pressure import STEPS
from tests import models
from tests.e2e.server import Server, ask, wait_until, write_rows
from tests.e2e.test_code import one_number, write

BUDGET = 480_000_000
MEGABYTE = 1_000_000
MOST_FILLED = 100 * MEGABYTE
SIDE = 4000
SHRINKS, UNLOADS, REFUSES_LARGE, REFUSES = 0.82, 0.895, 0.94, 0.98
# Bodies that nearly came stay, however slow the machine is.
SETTINGS = f"""
control: {{snapshot_interval_s: 0.1}}
engine: {{memory_budget_bytes: 8000000000}}
limits: {{gateway_memory_bytes: {BUDGET}, worker_memory_bytes: {BUDGET}}}
http: {{body_timeout_s: 900, min_body_rate_bytes_s: 1}}
"""
HOARDER = """
import threading
import time
from pathlib import Path

import numpy as np

ORDER = Path("{order}")


class Model:
    def load(self, path):
        self.hoard = None
        self.size = 0
        threading.Thread(target=self.obey, daemon=True).start()

    def obey(self):
        while True:
            wanted = int(ORDER.read_text() or 0) if ORDER.exists() else 0
            if wanted != self.size:
                self.hoard = None
                self.hoard = np.ones(wanted, np.uint8)
                self.size = wanted
            time.sleep(0.02)

    def predict(self, inputs):
        return {{"y": 2 * inputs["x"]}}
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server whose processes may have little memory."""
    folder = tmp_path_factory.mktemp("short")
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text(SETTINGS)
    with Server(home) as running:
        running.deploy_scaled(folder)
        yield running


def step(server: Server, role: str, identity: str) -> int:
    """Return how many steps a process has taken."""
    return int(server.metric("salver_memory_pressure", role=role, identity=identity) or 0)


def acted(server: Server, role: str, action: str) -> float:
    """Return how often processes of a role did something since memory was short."""
    return server.metric("salver_memory_actions_total", role=role, action=action) or 0.0


def missing(pid: int, share: float) -> int:
    """Return how many bytes more would be this part of a process's memory."""
    used: int = psutil.Process(pid).memory_info().rss
    return max(0, round(BUDGET * share) - used)


def refusal(port: int, endpoint: str, body: bytes) -> tuple[int, str, str | None]:
    """Ask once; returns status, code, and Retry-After."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", f"/v2/models/{endpoint}/infer", body)
        response = connection.getresponse()
        document = json.loads(response.read())
        return response.status, document.get("code", ""), response.getheader("retry-after")
    finally:
        connection.close()


def small() -> bytes:
    """Return a request."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
    return json.dumps({"inputs": [tensor]}).encode()


def test_a_worker_shrinks_then_refuses_and_goes_back(serving: Server, tmp_path: Path) -> None:
    """What it was asked before is answered, what comes is refused, and served when there is room.

    Other workers, whose memory is not short, go on.
    """
    order = tmp_path / "order"
    example = one_number(tmp_path / "example.json", 2.0)
    path = write(tmp_path / "hoarder", HOARDER.format(order=order))
    serving.push(path, "hoarder", "--trust-code", "--example", str(example))
    serving.ok("deploy", "hoarder")
    (row,) = [row for row in serving.json("get", "workers") if row["models"] == ["hoarder:1"]
              and row["kind"] == "dedicated"]  # fmt: skip
    worker, pid = row["id"], row["pid"]
    assert ask(serving.port, "hoarder", 3.0)[0] == 200
    assert step(serving, "worker", worker) == 0
    held = 0
    for share, steps in ((SHRINKS, 1), (UNLOADS, 2), (REFUSES_LARGE, 3)):
        held += missing(pid, share)
        order.write_text(str(held))
        wait_until(lambda steps=steps: step(serving, "worker", worker) == steps, f"step {steps}")  # type: ignore[misc]
        assert ask(serving.port, "hoarder", 3.0)[0] == 200
    assert acted(serving, "worker", "garbage") >= 1
    assert acted(serving, "worker", "requests") == 0
    order.write_text(str(held + missing(pid, REFUSES)))
    wait_until(lambda: step(serving, "worker", worker) == len(STEPS), "the last step")
    told = refusal(serving.port, "hoarder", small())
    assert told == (503, "overloaded", "1")
    assert ask(serving.port, "scaled", 3.0)[0] == 200
    order.write_text("0")
    wait_until(lambda: step(serving, "worker", worker) == 0, "all is well again")
    assert ask(serving.port, "hoarder", 3.0)[0] == 200
    assert serving.pid_of(worker) == pid
    serving.ok("undeploy", "hoarder")


def test_a_shared_worker_sends_idle_models_away(serving: Server, tmp_path: Path) -> None:
    """They leave though the budget for models has room, the pinned one stays, and all answer."""
    rows = write_rows(tmp_path / "rows.json", [[1.0] * SIDE])
    names = [f"m{index}" for index in range(6)]
    for index, name in enumerate(names):
        model = models.onnx_weights(index + 1, SIDE)
        serving.push(model, name, "--example", str(rows))
        serving.ok("deploy", name, *(["--pin"] if index == 0 else []))
    wait_until(lambda: acted(serving, "worker", "idle_models") >= 1, "models are sent away")
    wait_until(lambda: step(serving, "worker", "shared-0") == 0, "there is room again")
    endpoints = {one["name"]: one for one in serving.json("get", "endpoints")}
    assert endpoints["m0"]["in_memory"] == 1
    assert sum(endpoints[name]["in_memory"] for name in names) < len(names)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, SIDE], "data": [1.0] * SIDE}]}
    for name in names:
        wait_until(
            lambda name=name: refusal(serving.port, name, json.dumps(body).encode())[0] == 200,  # type: ignore[misc]
            f"{name} answers",
        )
        wait_until(lambda: step(serving, "worker", "shared-0") < len(STEPS), "it takes requests")
    for name in names:
        serving.ok("undeploy", name)


class Uploads:
    """Bodies that have almost come, and take the gateway's memory until they are let go."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[socket.socket] = []

    def take(self, size_bytes: int) -> None:
        """Have the gateway hold about so many bytes more."""
        while size_bytes > 0:
            piece = min(size_bytes, 100 * MEGABYTE)
            size_bytes -= piece
            self.begin(piece + 1).sendall(bytes(piece))

    def begin(self, size_bytes: int) -> socket.socket:
        """Announce a body; returns the connection that it is to be sent over."""
        link = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        self._open.append(link)
        head = "POST /v2/models/scaled/infer HTTP/1.1\r\nHost: t\r\n"
        link.sendall(f"{head}Content-Length: {size_bytes}\r\n\r\n".encode())
        return link

    def let_go(self) -> None:
        """Give all of them up."""
        for link in self._open:
            link.close()
        self._open = []


def test_a_gateway_shrinks_refuses_what_is_large_then_all_and_goes_back(serving: Server) -> None:
    """Health is told throughout; a step that begins does not end the ones before."""
    pid = serving.pid_of("gateway-0")
    assert pid is not None
    uploads = Uploads(serving.port)
    large = small() + b" " * 200_000

    def gateway() -> int:
        return int(serving.gateway_metric("salver_memory_pressure", role="gateway") or 0)

    try:
        assert gateway() == 0
        for share, steps in ((SHRINKS, 1), (UNLOADS, 2)):
            uploads.take(missing(pid, share))
            wait_until(lambda steps=steps: gateway() == steps, f"step {steps}")  # type: ignore[misc]
            assert refusal(serving.port, "scaled", large)[0] == 200
        begun = uploads.begin(MOST_FILLED)
        uploads.take(missing(pid, REFUSES_LARGE))
        wait_until(lambda: gateway() == 3, "large bodies are refused")
        assert refusal(serving.port, "scaled", large) == (503, "overloaded", "1")
        assert refusal(serving.port, "scaled", small())[0] == 200
        fill_up(begun, gateway, pid)
        assert refusal(serving.port, "scaled", small()) == (503, "overloaded", "1")
        health = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=60)
        health.request("GET", "/v2/health/live")
        assert health.getresponse().status == 200
        health.close()
    finally:
        uploads.let_go()
    wait_until(lambda: gateway() == 0, "all is well again")
    assert refusal(serving.port, "scaled", large)[0] == 200
    assert refusal(serving.port, "scaled", small())[0] == 200
    assert acted(serving, "gateway", "heads") >= 1


def fill_up(begun: socket.socket, gateway: Callable[[], int], pid: int) -> None:
    """Go on with a body that was let in before, until the gateway refuses everything.

    What it must take depends on how much of its memory was only kept for later, and given back.
    """
    for _ in range(MOST_FILLED // MEGABYTE - 1):
        if gateway() == len(STEPS):
            return
        begun.sendall(bytes(MEGABYTE))
    used: int = psutil.Process(pid).memory_info().rss
    pytest.fail(f"still at step {gateway()} with {used / BUDGET:.3f} of the budget in use")
