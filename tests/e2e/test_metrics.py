"""What a server counts of real traffic, and what it writes down of it."""

import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import models
from tests.e2e.server import Server, ask, wait_until

NUMBER = 987654.125
# The number and its double, as doubles and as floats are printed.
TRACES = ("987654.1", "9.87654", "1975308.2", "1.975308")
WRITERS = ("gateway-0", "shared-0", "quarantine-0", "control")
ROUNDS = 20
CALLERS = 8
ENDPOINT = {"endpoint": "scaled", "variant": "scaled:1", "tenant": "default"}


class Used:
    """A server with a past; ``codes`` counts its answers by code, ok included."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.codes: Counter[str] = Counter()

    def answer(self) -> None:
        """Have three requests answered, one after the other."""
        for _ in range(3):
            self.server.ok("predict", "scaled", "-", stdin=b"[[%a]]" % NUMBER)
            self.codes["ok"] += 1

    def refuse(self) -> None:
        """Have a request refused for its tensor, and another for not being HTTP."""
        tensor = {"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [NUMBER]}
        body = json.dumps({"inputs": [tensor]}).encode()
        done = self.server.salver("predict", "scaled", "-", stdin=body)
        assert b"[invalid_tensor]" in done.stderr
        self.codes["invalid_tensor"] += 1
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as connection:
            connection.sendall(b"GIVE %a\r\n\r\n" % NUMBER)
            assert connection.recv(4096).startswith(b"HTTP/1.1 400")

    def crash(self) -> None:
        """Kill the worker while it has requests."""
        server = self.server
        with ThreadPoolExecutor(CALLERS) as callers:
            port = server.port
            answers = [callers.submit(ask, port, "scaled", NUMBER) for _ in range(CALLERS)]
            wait_until(
                lambda: (
                    sum(a.done() for a in answers) + (server.in_flight("scaled") or 0) == CALLERS
                ),
                "all have come",
            )
            assert not all(a.done() for a in answers), "the model was too fast to show it"
            pid = server.pid_of("shared-0")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            for answer in answers:
                self.codes[answer.result()[1].get("code", "ok")] += 1
        wait_until(lambda: server.pid_of("shared-0") not in (None, pid), "it is restarted")

    def expect(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric has come in; fails when it is not what was counted here."""
        metric = self.server.metric
        wait_until(lambda: (metric(name, **labels) or 0) >= value, f"{name} {labels} is {value}")
        assert metric(name, **labels) == value


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    """Give a server that has answered, refused, and lost a worker in the middle of a batch."""
    folder = tmp_path_factory.mktemp("used")
    with Server(folder / "home") as server:
        server.push_scaled(folder, path=models.onnx_slow(2, ROUNDS))
        server.ok("deploy", "scaled", "--max-batch-size", "1")
        past = Used(server)
        past.answer()
        past.refuse()
        past.expect(1, "salver_model_loads_total", variant="scaled:1")
        past.crash()
        yield past


def test_requests_are_counted_by_code(used: Used) -> None:
    """Each answer is counted once under its code, also when a worker died with it."""
    assert used.codes["ok"] > 3
    for code, count in used.codes.items():
        used.expect(count, "salver_requests_total", code=code, **ENDPOINT)
    used.expect(used.codes.total(), "salver_requests_total")
    used.expect(used.codes.total(), "salver_request_seconds_count", **ENDPOINT)


def test_waiting_and_batches_are_measured(used: Used) -> None:
    """Every request that ran counts in the histograms of queue, run and batch, one row each."""
    for name in ("salver_queue_seconds", "salver_run_seconds", "salver_batch_size"):
        used.expect(used.codes["ok"], f"{name}_count", **ENDPOINT)
    used.expect(used.codes["ok"], "salver_batch_size_bucket", le="1.0", **ENDPOINT)
    assert (used.server.metric("salver_run_seconds_sum", **ENDPOINT) or 0) > 0
    assert (used.server.metric("salver_queue_seconds_sum", **ENDPOINT) or 0) > 0


def test_what_is_no_http_is_counted(used: Used) -> None:
    """A request refused before its endpoint was known counts under its code."""
    used.expect(1, "salver_http_refused_total", code="malformed_http")


def test_models_and_processes_are_counted(used: Used) -> None:
    """Loads, memory of models, restarts and second attempts show what the killed worker did."""
    metric = used.server.metric
    used.expect(1, "salver_process_restarts_total", identity="shared-0")
    used.expect(1, "salver_process_restarts_total")
    wait_until(
        lambda: (metric("salver_model_loads_total", variant="scaled:1") or 0) >= 2,
        "the second load is counted",
    )
    wait_until(
        lambda: (metric("salver_model_resident_bytes", worker="shared-0") or 0) > 0,
        "the model takes memory",
    )
    assert (metric("salver_retries_total", variant="scaled:1") or 0) >= 1
    for role in ("gateway", "worker"):
        assert (metric("salver_process_resident_bytes", role=role) or 0) > 0


def test_requests_in_flight_end_at_none(used: Used) -> None:
    """The gauge of open requests is there, and back at 0 when all are answered."""
    metric = used.server.metric
    wait_until(lambda: metric("salver_requests_in_flight", endpoint="scaled") == 0.0, "it is 0")


def test_logs_are_json_lines(used: Used) -> None:
    """Each line of gateway, workers and control is JSON with its event, and 'logs' prints it."""
    logs = used.server.home / "logs"
    for process in WRITERS:
        lines = (logs / f"{process}.log").read_text().splitlines()
        assert lines, process
        for line in lines:
            assert {"event", "level", "timestamp"} <= set(json.loads(line))
        printed = used.server.ok("logs", process, "-n", "100000").splitlines()
        assert [line.split(maxsplit=1) for line in printed] == [[process, line] for line in lines]


def test_log_lines_name_their_process(used: Used) -> None:
    """Each line says which process wrote it, so that lines of many files can be told apart."""
    for process in WRITERS:
        for line in (used.server.home / "logs" / f"{process}.log").read_text().splitlines():
            assert json.loads(line)["process"] == process


def test_no_values_of_requests_are_written(used: Used) -> None:
    """Neither numbers that were sent nor their answers are in any log."""
    written = [path.read_text() for path in used.server.home.glob("logs/*")]
    assert any("worker_lost" in text for text in written)
    for trace in TRACES:
        assert not any(trace in text for text in written)
