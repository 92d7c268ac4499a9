"""Models that end their worker's process while they load: whoever deploys them is told at once."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from salver.engine import trial
from salver.wire.attempts import read
from tests import models
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import SALVER, Server, ask, wait_until
from tests.e2e.test_code import one_number, write

# Loads well where it is examined, and until somebody arms it.
SOURCE = """
import ctypes
import os
from pathlib import Path

MARK = Path("{mark}")


class Model:
    def load(self, path):
        if MARK.exists():
            {end}

    def predict(self, inputs):
        if MARK.exists():
            {asked}
        return {{"y": 2 * inputs["x"]}}
"""
ENDS = {
    "exits": ("os._exit(3)", "exit 3"),
    "faults": ("ctypes.string_at(0)", "SIGSEGV"),
    "killed": ("os.kill(os.getpid(), 9)", "SIGKILL"),
}
SETTINGS = """
engine: {load_again_s: 1.0, shared_workers: 2}
supervisor: {backoff_max_s: 0.2}
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with a well model on two shared workers."""
    folder = tmp_path_factory.mktemp("deadly")
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text(SETTINGS)
    with Server(home) as running:
        running.push_scaled(folder)
        running.ok("deploy", "scaled", "--replicas", "2")
        yield running


def push(server: Server, folder: Path, name: str, end: str, asked: str = "pass") -> Path:
    """Push a model that ends its process as it loads, while the file exists that is returned.

    Or when it is ``asked``.
    """
    mark = folder / "mark"
    source = SOURCE.format(mark=mark, end=end, asked=asked)
    example = one_number(folder / "example.json", 2.0)
    server.push(write(folder / name, source), name, "--trust-code", "--example", str(example))
    mark.touch()
    return mark


@pytest.mark.parametrize("kind", sorted(ENDS))
def test_code_that_ends_its_worker(serving: Server, tmp_path: Path, kind: str) -> None:
    """After one more attempt the deploy fails and says how it ended; nobody else notices.

    It is tried again later, and serves when it loads then.
    """
    end, told = ENDS[kind]
    mark = push(serving, tmp_path, kind, end)
    with Load(serving.port, "scaled", connections=4) as load:
        done = serving.salver("deploy", kind)
    assert_unharmed(load)
    text = done.stderr.decode()
    assert done.returncode == 1, text
    assert "load_failed" in text
    assert "processes of worker" in text
    assert told in text

    def is_to_be_tried_again() -> bool:
        (found,) = [one for one in serving.json("get", "endpoints") if one["name"] == kind]
        return found["state"] == "failed" and "tried again in" in found["reason"]

    # In between it is.
    wait_until(is_to_be_tried_again, "it is said when it is tried again")
    mark.unlink()
    wait_until(lambda: ask(serving.port, kind, 3.0)[0] == 200, "it was tried again")
    serving.ok("deploy", kind)
    serving.ok("undeploy", kind)


def test_one_that_runs_on_demand(serving: Server, tmp_path: Path) -> None:
    """A deploy loads it once to see that it can be, and says that it cannot."""
    mark = push(serving, tmp_path, "sleeper", "os._exit(3)")
    done = serving.salver("deploy", "sleeper", "--min-replicas", "0")
    text = done.stderr.decode()
    assert (done.returncode, "load_failed" in text, "exit 3" in text) == (1, True, True), text
    mark.unlink()
    wait_until(lambda: ask(serving.port, "sleeper", 3.0)[0] == 200, "it was tried again")
    serving.ok("undeploy", "sleeper")


def test_code_that_ends_its_worker_at_its_golden_example(serving: Server, tmp_path: Path) -> None:
    """Without a warm-up the gate in front of the first request finds it, and does not ask for ever.

    What is deployed anew is asked anew.
    """
    mark = push(serving, tmp_path, "shy", "pass", "os._exit(3)")
    done = serving.salver("deploy", "shy", "--no-warm-up")
    text = done.stderr.decode()
    assert (done.returncode, "worker_crashed" in text) == (1, True), text
    serving.ok("undeploy", "shy")
    mark.unlink()
    serving.ok("deploy", "shy", "--no-warm-up")
    assert ask(serving.port, "shy", 3.0)[0] == 200
    serving.ok("undeploy", "shy")


def test_a_shared_worker_that_ends_while_one_of_its_models_loads(
    serving: Server, tmp_path: Path
) -> None:
    """What ended it twice, and a process of its own, is given up; it ends no third time.

    Who has another worker notices nothing. The kernel ends a process that takes too much memory
    with the same signal.
    """
    serving.push_scaled(tmp_path, path=models.onnx_slow_to_load(2))
    killed: dict[int, str] = {}
    notes_of_the_dead: set[int] = set()
    restarts = restarts_of_shared(serving)

    def kill_when_it_loads() -> bool:
        for worker in ("shared-0", "shared-1"):
            pid, note = serving.pid_of(worker), serving.home / "run" / f"loads-{worker}"
            written_ns = note.stat().st_mtime_ns if note.exists() else 0
            loads = read(note.parent, worker).going_on
            key = next((one for one in loads if one in killed.values() or not killed), "")
            if key and pid is not None and written_ns not in notes_of_the_dead:
                os.kill(pid, signal.SIGKILL)
                killed[pid] = key
                notes_of_the_dead.add(written_ns)
        for process in trials(serving):
            process.kill()
        return deploying.poll() is not None

    home = ("--home", str(serving.home))
    with Load(serving.port, "scaled", connections=4) as load:
        command = [str(SALVER), "deploy", "scaled:2", "--endpoint", "second", *home]
        deploying = subprocess.Popen(command, stderr=subprocess.PIPE)
        wait_until(kill_when_it_loads, "the deploy has ended", 110)
        told = deploying.communicate()[1].decode()
    assert_unharmed(load)
    assert deploying.returncode == 1
    assert len(killed) == 2
    assert "load_failed" in told
    assert "SIGKILL" in told
    assert "one that did nothing else ended as well (SIGKILL)" in told
    assert "it is not tried again" in told
    assert restarts_of_shared(serving) == restarts + 2
    serving.ok("undeploy", "second")
    serving.ok("deploy", "scaled:2", "--endpoint", "second")
    assert ask(serving.port, "second", 3.0)[0] == 200


def test_a_good_model_is_not_blamed_for_what_its_neighbour_did(tmp_path: Path, home: Path) -> None:
    """Two requests end the shared worker of another model while a good one loads alone there.

    It loads in a process of its own, and so it is loaded where it belongs, and serves.
    """
    home.mkdir(exist_ok=True)
    (home / "salver.yaml").write_text("supervisor: {backoff_max_s: 0.2}")
    example = one_number(tmp_path / "example.json", 2.0)
    with Server(home) as server:
        server.push(models.onnx_deadly(), "deadly", "--example", str(example))
        server.ok("deploy", "deadly")
        server.push(models.onnx_slow_to_load(3), "good", "--example", str(example))
        command = [str(SALVER), "deploy", "good", "--home", str(home)]
        deploying = subprocess.Popen(command, stderr=subprocess.PIPE)
        for count in range(2):
            wait_until(lambda count=count: loads_alone(server, count), "it loads")  # type: ignore[misc]
            wait_until(lambda count=count: is_ended(server, count), "it ended")  # type: ignore[misc]
        told = deploying.communicate(timeout=110)[1].decode()
        assert deploying.returncode == 0, told
        assert restarts_of_shared(server) == 2
        assert ask(server.port, "good", 3.0)[0] == 200
        assert "load_acquitted" in (home / "logs" / "shared-0.log").read_text()


def loads_alone(server: Server, count: int) -> bool:
    """Tell whether one load goes on, of which so many processes have ended."""
    found = read(server.home / "run", "shared-0")
    return len(found.going_on) == 1 and sum(found.ends.values()) == count


def is_ended(server: Server, count: int) -> bool:
    """Have a neighbour end the shared worker unless more processes than that ended already."""
    if restarts_of_shared(server) == count:
        ask(server.port, "deadly", -1.0)
    return restarts_of_shared(server) > count


def restarts_of_shared(server: Server) -> int:
    """Count the ends of the shared workers' processes."""
    table = json.loads((server.home / "run" / "processes.json").read_text())["processes"]
    return sum(one["restarts"] for one in table if one["identity"].startswith("shared-"))


def trials(server: Server) -> list[psutil.Process]:
    """Return the processes of a server that do nothing but try a load."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if trial.CHILD in words and any(str(server.home) in word for word in words):
                found.append(process)
    return found
