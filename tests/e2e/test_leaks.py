"""A worker whose process leaks, under load: it is replaced, and nobody notices."""

import os
from pathlib import Path

import psutil
import pytest

from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, wait_until
from tests.e2e.test_residency import server_workers

LEAK_BYTES = 400_000_000
# Python imports this by itself; it leaks in the one process that is told to be this worker.
LEAKING = f"""
import pathlib
import sys
import threading
import time

def leak():
    held = []
    while not pathlib.Path(__file__).with_name("leak").exists():
        time.sleep(0.05)
    while len(held) < {LEAK_BYTES} // 10_000_000:
        held.append(bytearray(b"x") * 10_000_000)
        time.sleep(0.05)
    time.sleep(600)

if "shared-0" in sys.orig_argv:
    threading.Thread(target=leak, daemon=True).start()
"""
SETTINGS = """
engine: {memory_budget_bytes: 1000000000, worn_slack_bytes: 150000000, worn_after_s: 1}
"""


def test_a_leaking_worker_is_replaced_and_its_memory_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is drained and ends once its successor serves, which is as small as it was at first."""
    (tmp_path / "sitecustomize.py").write_text(LEAKING)
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    home = tmp_path / "home"
    home.mkdir()
    (home / "salver.yaml").write_text(SETTINGS)
    with Server(home) as server:
        server.deploy_scaled(tmp_path)
        first = server.pid_of("shared-0")
        assert first is not None
        with Load(server.port, "scaled", connections=16) as load:
            (tmp_path / "leak").touch()
            wait_until(lambda: resident(first) > LEAK_BYTES // 2, "it leaks")
            wait_until(lambda: server_workers(server) == ["shared-0.1"], "it has a successor")
            wait_until(lambda: not psutil.pid_exists(first), "its process has ended")
            before = load.answered
            wait_until(lambda: load.answered > before + 100, "traffic afterwards")
        assert_unharmed(load)
        second = server.pid_of("shared-0.1")
        assert second is not None
        assert resident(second) < LEAK_BYTES // 2


def resident(pid: int) -> int:
    """Return what a process holds in memory; 0 for one that is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
