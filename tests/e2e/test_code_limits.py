"""Code that uses one array for all its answers, callers in a hurry, and loads that let nothing run.

Through the whole path, since it is the sockets that keep large answers waiting.
"""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.server import Server, ask
from tests.e2e.test_code import one_number, write

REUSING = """
import numpy as np


class Model:
    def load(self, path):
        self.out = np.zeros((1, 8_000_000), np.float32)

    def predict(self, inputs):
        self.out[:] = inputs["x"][0, 0]
        return {"y": self.out}
"""
GROWING = """
import numpy as np


class Model:
    def predict_stream(self, inputs):
        total = np.zeros((1, 4096), np.float32)
        for _ in range(int(inputs["x"][0, 0])):
            total += 1
            yield {"y": total}
"""
SLOW = """
import time


class Model:
    def predict(self, inputs):
        time.sleep(0.4)
        return {"y": 2 * inputs["x"]}
"""
HOLDING = """
import ctypes


class Model:
    def load(self, path):
        ctypes.PyDLL(None).sleep(6)

    def predict(self, inputs):
        return {"y": 2 * inputs["x"]}
"""
SOURCES = {"reusing": REUSING, "growing": GROWING, "slow": SLOW}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with three models that are code."""
    folder = tmp_path_factory.mktemp("code")
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text("engine: {unresponsive_s: 3}")
    with Server(home) as running:
        for name, source in SOURCES.items():
            push(running, folder, name, source)
            running.ok("deploy", name)
        yield running


def push(server: Server, folder: Path, name: str, source: str) -> None:
    """Push a model that is code."""
    example = one_number(folder / f"{name}.json", 2.0)
    server.push(write(folder / name, source), name, "--example", str(example), "--trust-code")


def send(port: int, name: str, number: float, **parameters: object) -> tuple[int, bytes]:
    """Send one number; returns the status and the bytes of the outputs, or the whole answer."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number]}
    body = json.dumps({"inputs": [item], "parameters": parameters})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", f"/v2/models/{name}/infer", body)
        response = connection.getresponse()
        head = int(response.getheader("inference-header-content-length") or 0)
        return response.status, response.read()[head:]
    finally:
        connection.close()


def test_answers_of_one_array_do_not_mix(serving: Server) -> None:
    """Large answers that wait for their sockets stay those of their own callers."""

    def values(number: float) -> set[float]:
        status, data = send(serving.port, "reusing", number, binary_data_output=True)
        assert status == 200
        return set(np.unique(np.frombuffer(data, np.float32)))

    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(values, [1.0, 2.0, 3.0, 4.0])) == [{1.0}, {2.0}, {3.0}, {4.0}]


def test_chunks_of_one_array_stay_apart(serving: Server) -> None:
    """A generator that yields the same array again sends what it held at each yield."""
    status, document = ask(serving.port, "growing", 6.0)
    assert status == 200
    rows = np.array(document["outputs"][0]["data"]).reshape(-1, 4096)
    assert rows[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert (rows == rows[:, :1]).all()


def test_a_caller_in_a_hurry_ends_no_process(serving: Server) -> None:
    """Requests that give up before the code comes back cost nobody else anything."""
    before = serving.pid_of("dedicated-slow-1-0")
    for _ in range(3):
        status, _ = send(serving.port, "slow", 1.0, timeout=50_000)
        assert status == 504
        assert ask(serving.port, "slow", 5.0)[1]["outputs"][0]["data"] == [10.0]
    assert serving.pid_of("dedicated-slow-1-0") == before


def test_a_load_may_hold_the_interpreter(serving: Server, tmp_path: Path) -> None:
    """A load that lets nothing else run has the time that a load may take, and is not repeated."""
    push(serving, tmp_path, "holding", HOLDING)
    serving.ok("deploy", "holding")
    assert ask(serving.port, "holding", 4.0)[1]["outputs"][0]["data"] == [8.0]
    found = list((serving.home / "logs").glob("dedicated-holding*"))
    assert found
    assert not any("Timeout (" in path.read_text() for path in found)
