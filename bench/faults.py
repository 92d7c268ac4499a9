"""What a fault in one model costs another: its p99 with and without the fault, in one run.

Run: `python -m bench.faults [--rate N] [--seconds N]`. A server hosts a small ONNX model and, on
two replicas, a model that is code, which a few callers ask all the time. For each fault the small
model is measured by `salver bench` without it, and again while one poisonous request goes through
a worker of the other and its quarantine. Prints a table, p99 in milliseconds and their ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.models.make import make_tabular

SALVER = Path(sys.executable).with_name("salver")
FAULTS = {
    "none": 1.0,
    "kill": -1.0,
    "segfault": -2.0,
    "stop": -3.0,
    "spin": -4.0,
    "hold": -5.0,
    "memory": -6.0,
}
SETTINGS = """
engine: {unresponsive_s: 3, stuck_s: 3, silent_s: 1.5}
supervisor: {backoff_max_s: 0.2}
"""
MODEL = """
import ctypes, os, re, signal, time
import numpy as np


class Model:
    def predict(self, inputs):
        x = inputs["x"]
        time.sleep(0.005)
        found = set(x.ravel().tolist())
        if -1.0 in found:
            os.kill(os.getpid(), signal.SIGKILL)
        if -2.0 in found:
            ctypes.string_at(0)
        if -3.0 in found:
            os.kill(os.getpid(), signal.SIGSTOP)
        while -4.0 in found:
            pass
        if -5.0 in found:
            re.match(r"(a+)+$", "a" * 60 + "b")
        eaten = []
        while -6.0 in found:
            eaten.append(np.ones(10_000_000, np.uint8))
        return {"y": 2 * x}
"""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """Give the home of a server with both models."""
    home, code = folder / "home", folder / "code"
    home.mkdir()
    code.mkdir()
    (home / "salver.yaml").write_text(SETTINGS)
    (code / "model.py").write_text(MODEL)
    make_tabular(folder)
    rows = ("--example", str(folder / "tabular-example.json"))
    salver(home, "up", "--http-port", "0", "--control-port", "0", "--detach")
    try:
        salver(home, "push", str(folder / "tabular.onnx"), "--name", "well", *rows)
        (folder / "one.json").write_text(body(1.0))
        example = ("--example", str(folder / "one.json"), "--trust-code")
        salver(home, "push", str(code), "--name", "ill", *example)
        salver(home, "deploy", "well")
        salver(home, "deploy", "ill", "--replicas", "2", "--memory-limit", "600MB")
        yield home
    finally:
        salver(home, "stop")


def salver(home: Path, *arguments: str) -> str:
    """Run one command, which must succeed; returns what it printed."""
    command = [str(SALVER), *arguments, "--home", str(home)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=180)
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    return done.stdout.decode()


def body(number: float) -> str:
    """Return a request of one number."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number]}
    return json.dumps({"inputs": [item]})


def ask(port: int, number: float) -> str:
    """Ask the model that is code; returns the status, with the code of an error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v2/models/ill/infer", body(number))
        response = connection.getresponse()
        document = json.loads(response.read())
    return str(response.status) + (f" {document['code']}" if "code" in document else "")


@contextlib.contextmanager
def callers(port: int, count: int, pause_s: float) -> Iterator[dict[str, int]]:
    """Have some callers ask meanwhile; gives what became of their requests."""
    seen: dict[str, int] = {}
    over = threading.Event()

    def ask_on() -> None:
        while not over.wait(pause_s):
            outcome = ask(port, 2.0)
            seen[outcome] = seen.get(outcome, 0) + 1

    threads = [threading.Thread(target=ask_on) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def measure(home: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Return the one step of a report of ``salver bench``."""
    options = ("--rate", f"{rate:g}", "--duration", f"{seconds:g}s", "-o", "json")
    step: dict[str, Any] = json.loads(salver(home, "bench", "well", *options))["steps"][0]
    return step


def poison(port: int, number: float, told: list[str]) -> None:
    """Send one poisonous request when the measurement has begun."""
    time.sleep(2.0)
    told.append(ask(port, number))


def main() -> None:
    """Measure each fault beside its own baseline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second, small model")
    parser.add_argument("--seconds", type=float, default=7.0, help="of each measurement")
    options = parser.parse_args()
    titles = (
        "fault",
        "its request",
        "others of its model",
        "p99, ms",
        "with it",
        "ratio",
        "failed",
    )
    print("| " + " | ".join(titles) + " |")
    print("|---|---|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="faults-") as name, serving(Path(name)) as home:
        state = json.loads((home / "run" / "supervisor.json").read_text())
        port = int(state["http_url"].rpartition(":")[2])
        for fault, number in FAULTS.items():
            told: list[str] = []
            with callers(port, 4, 0.05) as seen:
                before = measure(home, options.rate, options.seconds)
                one = threading.Thread(target=poison, args=(port, number, told))
                one.start()
                after = measure(home, options.rate, options.seconds)
                one.join()
            was, now = (step["latency_us"]["p99"] / 1000 for step in (before, after))
            others = ", ".join(f"{count} × {outcome}" for outcome, count in sorted(seen.items()))
            failed = sum(after["errors"].values())
            print(
                f"| {fault} | {told[0]} | {others} | {was:.2f} | {now:.2f} | {now / was:.2f} "
                f"| {failed} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
