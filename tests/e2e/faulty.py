"""A model that is code and does the worst on certain numbers, and traffic around it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, ask, wait_until
from tests.e2e.test_code import one_number, write

KILLS, STOPS, FAULTS, SPINS, HOLDS, EATS, FREES, LEAKS = (-float(n) for n in range(1, 9))
SOURCE = f"""
import ctypes
import os
import re
import signal
import time

import numpy as np

BLOCK = 10_000_000


class Model:
    def load(self, path):
        self.leaked = []

    def predict(self, inputs):
        x = inputs["x"]
        # Long enough that what comes meanwhile is a batch.
        time.sleep(0.005)
        if (x == {KILLS}).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (x == {STOPS}).any():
            os.kill(os.getpid(), signal.SIGSTOP)
        if (x == {FAULTS}).any():
            ctypes.string_at(0)
        while (x == {SPINS}).any():
            pass
        if (x == {HOLDS}).any():
            re.match(r"(a+)+$", "a" * 60 + "b")
        if (x == {EATS}).any():
            eaten = []
            while True:
                eaten.append(np.ones(BLOCK, np.uint8))
        if (x == {FREES}).any():
            # A library that does not look at what it was given.
            libc = ctypes.CDLL(None)
            libc.malloc.restype = ctypes.c_void_p
            libc.malloc.argtypes = [ctypes.c_size_t]
            ctypes.memset(libc.malloc(1 << 40) or 0, 1, 1 << 40)
        if (x == {LEAKS}).any():
            self.leaked.append(np.ones(BLOCK, np.uint8))
        return {{"y": 2 * x}}
"""
CALLERS = 8
QUICK = """
engine: {unresponsive_s: 4, stuck_s: 4, silent_s: 1.5}
supervisor: {backoff_initial_s: 0.05, backoff_max_s: 0.2}
"""


@contextmanager
def serving(folder: Path, *options: str, settings: str = QUICK) -> Iterator[Server]:
    """Give a server with a well model in a shared worker, and the faulty one on two replicas."""
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text(settings)
    with Server(home) as running:
        running.deploy_scaled(folder)
        example = one_number(folder / "faulty.json", 2.0)
        path = write(folder / "faulty", SOURCE)
        running.push(path, "faulty", "--trust-code", "--example", str(example))
        running.ok("deploy", "faulty", "--replicas", "2", *options)
        yield running


def replicas(server: Server) -> list[str]:
    """Return the names of the faulty model's workers."""
    (found,) = [e for e in server.json("get", "endpoints") if e["name"] == "faulty"]
    names: list[str] = found["workers"]
    return names


def all_ready(server: Server) -> bool:
    """Tell whether both replicas answer."""
    with server.client() as client:
        found = {item["name"]: item["ready_replicas"] for item in client.endpoints()}
    return bool(found["faulty"] == 2)


def poisoned(server: Server, poison: float) -> tuple[int, Any]:
    """Send one poisonous request amid others; returns what became of it.

    Nobody else may notice: neither the well model's callers, nor the faulty one's, those whose
    requests shared a batch with the poison included.
    """
    wait_until(lambda: all_ready(server), "both replicas are ready")
    with Load(server.port, "scaled", CALLERS) as well, Load(server.port, "faulty", 16, 0.0) as ill:
        wait_until(lambda: ill.answered > 50 and well.answered > 50, "traffic")
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, server.port, "faulty", poison)
            wait_until(answer.done, "the poisonous request has its answer")
        before = (well.answered, ill.answered)
        wait_until(lambda: all_ready(server), "both replicas are back")
        wait_until(
            lambda: well.answered > before[0] + 50 and ill.answered > before[1] + 50,
            "traffic afterwards",
        )
    assert_unharmed(well)
    assert_unharmed(ill)
    return answer.result()
