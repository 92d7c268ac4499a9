"""`make serve`: both models answer, and the commands that it prints work as they are printed."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from salver.client.sync import Client
from tests.e2e.server import run

ROOT = Path(__file__).parents[2]
END = "Ctrl-C ends the server."
_TIMEOUT_S = 240.0


@contextmanager
def demo(home: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run the script as `make serve` does, but on free ports; ends whatever it leaves behind."""
    process = subprocess.Popen(
        [
            # Who runs tests in the background may have told them to ignore Ctrl-C.
            "env", "--default-signal=INT", sys.executable, "scripts/demo.py", "--home", str(home),
            "--http-port", "0", "--control-port", "0",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    watchdog = threading.Timer(_TIMEOUT_S, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        run("stop", "--home", str(home))


def printed(process: "subprocess.Popen[str]") -> list[str]:
    """Return what the script prints until it waits for Ctrl-C."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if lines[-1] == END:
            return lines
    raise AssertionError(f"it ended: {lines}")


def commands(lines: list[str]) -> list[str]:
    """Return the commands that are to be tried."""
    return [line.strip() for line in lines[lines.index("Try:") + 1 : lines.index(END)]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give a home that is not there yet."""
    return tmp_path / "demo"


def test_what_it_prints_works(home: Path) -> None:
    """Both models answer through the printed commands, and Ctrl-C ends everything in order."""
    with demo(home) as process:
        lines = printed(process)
        entering, *tries = commands(lines)
        assert [line.split()[:2] for line in tries] == [
            ["salver", "status"],
            ["salver", "get"],
            ["salver", "predict"],
            ["curl", "-s"],
            ["salver", "undeploy"],
        ]
        outputs = []
        for line in tries:
            done = subprocess.run(
                ["bash", "-euc", f"{entering}\n{line}"],
                cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            assert done.returncode == 0, (line, done.stderr)
            outputs.append(done.stdout)
        _, endpoints, predicted, answered, _ = outputs
        assert "tumour" in endpoints
        assert "magika" in endpoints
        told = next(line for line in lines if line.startswith("three held-out samples:"))
        labels = json.loads(told.partition(":")[2])
        assert len(labels) == 3
        assert all(str(label) in predicted for label in labels)
        assert '"model_name":"magika"' in answered
        assert '"outputs"' in answered
        with Client(home=home) as client:
            assert [endpoint["name"] for endpoint in client.endpoints()] == ["tumour"]
        # A terminal's Ctrl-C reaches the script and the command that it waits for.
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert "stopping" in process.stdout.read()
        assert process.wait(60) == 0
        assert b"[not_found]" in run("stop", "--home", str(home)).stderr


def test_a_server_that_is_stopped_elsewhere(home: Path) -> None:
    """The script ends as well, with a line that says why, and as successfully as with Ctrl-C."""
    with demo(home) as process:
        printed(process)
        assert run("stop", "--home", str(home)).returncode == 0
        assert process.stdout is not None
        assert process.stdout.read().splitlines()[-1] == "the server was stopped, so this ends"
        assert process.wait(60) == 0
