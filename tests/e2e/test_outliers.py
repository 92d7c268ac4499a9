"""A replica that takes much longer than its peer, on a running server: it is left alone."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, wait_until
from tests.e2e.test_code import one_number, write

# Each process counts its answers in a file, and is slow while the other file names it.
SOURCE = """
import os
import time
from pathlib import Path

FOLDER = Path("{folder}")


class Model:
    def load(self, path):
        self.answers = 0
        self.own = FOLDER / f"answers-{{os.getpid()}}"

    def predict(self, inputs):
        if (FOLDER / "slow").read_text() == str(os.getpid()):
            time.sleep(0.2)
        self.answers += len(inputs["x"])
        new = self.own.with_suffix(".new")
        new.write_text(str(self.answers))
        new.replace(self.own)
        return {{"y": 2 * inputs["x"]}}
"""
SETTINGS = """
control: {snapshot_interval_s: 0.2}
engine: {eject_s: 12.0}
"""


@pytest.fixture
def serving(home: Path, tmp_path: Path) -> Iterator[Server]:
    """Give a server with this model on two replicas."""
    home.mkdir()
    (home / "salver.yaml").write_text(SETTINGS)
    (tmp_path / "slow").write_text("")
    with Server(home) as running:
        example = one_number(tmp_path / "example.json", 2.0)
        path = write(tmp_path / "uneven", SOURCE.format(folder=tmp_path))
        running.push(path, "uneven", "--trust-code", "--example", str(example))
        running.ok("deploy", "uneven", "--replicas", "2")
        yield running


def answers(folder: Path, pid: int) -> int:
    """Return how many requests a process has answered."""
    path = folder / f"answers-{pid}"
    return int(path.read_text()) if path.exists() else 0


def has_come_to_rest(folder: Path, pid: int) -> bool:
    """Tell whether a process answered nothing for longer than its slowest batch takes."""
    before = answers(folder, pid)
    time.sleep(0.5)
    return answers(folder, pid) == before


def test_the_slow_one_of_two_is_left_alone_and_tried_again(serving: Server, tmp_path: Path) -> None:
    """While it is ejected the other one answers all; if it is still slow it is ejected again.

    When it is as quick as before it stays, and nobody was ever refused.
    """
    (endpoint,) = serving.json("get", "endpoints")
    slow, quick = endpoint["workers"]
    pids = {name: serving.pid_of(name) for name in (slow, quick)}
    own, other = pids[slow], pids[quick]
    assert own is not None
    assert other is not None

    def ejections(worker: str) -> float:
        name = "salver_worker_ejections_total"
        found = serving.gateway_metric(name, variant="uneven:1", worker=worker, reason="latency")
        return found or 0.0

    def is_ejected() -> bool:
        return serving.gateway_metric("salver_workers_ejected", variant="uneven:1") == 1

    with Load(serving.port, "uneven", connections=16, pause_s=0.005) as load:
        wait_until(lambda: answers(tmp_path, own) > 50 < answers(tmp_path, other), "both answer")
        assert not is_ejected()
        (tmp_path / "slow").write_text(str(own))
        wait_until(lambda: ejections(slow) == 1, "the slow one is ejected")
        wait_until(lambda: has_come_to_rest(tmp_path, own), "it has answered what it had")
        before = answers(tmp_path, own), answers(tmp_path, other)
        wait_until(lambda: answers(tmp_path, other) > before[1] + 100, "it answers all")
        after = answers(tmp_path, own)
        assert is_ejected(), "the machine was too slow to see it ejected"
        assert after == before[0]
        wait_until(lambda: answers(tmp_path, own) > after, "it is tried again")
        wait_until(lambda: ejections(slow) == 2, "it is ejected again, since it is still slow")
        (tmp_path / "slow").write_text("")
        wait_until(lambda: not is_ejected(), "its second pause is over")
        back = answers(tmp_path, own)
        wait_until(lambda: answers(tmp_path, own) > back + 500, "it has its part again")
    assert_unharmed(load)
    assert ejections(quick) == 0
    log = (serving.home / "logs" / "gateway-0.log").read_text()
    told = [line for line in log.splitlines() if "worker_ejected" in line]
    assert len(told) == ejections(slow)
    assert all("latency" in line and slow in line for line in told)
