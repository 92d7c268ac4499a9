"""One request on which a model's process dies, stops, spins or eats all memory, under load."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.faulty import (
    EATS,
    FAULTS,
    FREES,
    HOLDS,
    KILLS,
    LEAKS,
    SPINS,
    STOPS,
    all_ready,
    poisoned,
    replicas,
    serving,
)  # fmt: skip
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, ask, wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server whose faulty model has a memory limit."""
    with serving(tmp_path_factory.mktemp("faults"), "--memory-limit", "600MB") as running:
        yield running


def deaths(server: Server) -> dict[str, int]:
    """Return how often each process was started again."""
    return {one["identity"]: one["restarts"] for one in server.json("status")["processes"]}


@pytest.mark.parametrize(
    "poison",
    [KILLS, FAULTS, FREES, HOLDS, STOPS],
    ids=["kills", "segfaults", "writes past its limit", "holds the lock", "stops"],
)
def test_a_poison_costs_its_own_request_and_two_processes(server: Server, poison: float) -> None:
    """It is tried once more, alone, in quarantine, then answered with a code; nothing else fails.

    One worker and the quarantine die of it, once each.
    """
    before = deaths(server)
    status, document = poisoned(server, poison)
    assert (status, document["code"]) == (500, "worker_crashed")
    assert "for the second time" in document["error"]
    wait_until(lambda: sum(deaths(server).values()) == sum(before.values()) + 2, "both are back")
    died = {name for name, count in deaths(server).items() if count > before.get(name, 0)}
    (worker,) = died & set(replicas(server))
    assert len(died) == 2
    assert any(name.startswith("quarantine-faulty") for name in died - {worker})


def test_one_that_spins_costs_its_own_request(server: Server) -> None:
    """In a batch it is tried once more, by itself it may use all of its time; others are answered.

    Which of the two it is depends on who else comes in that moment.
    """
    status, document = poisoned(server, SPINS)
    assert (status, document["code"]) in ((500, "worker_crashed"), (504, "deadline_exceeded"))


def test_who_waits_behind_one_that_never_ends_is_answered(server: Server) -> None:
    """By itself it may use all of its time; what waits behind it goes to the other replica."""
    wait_until(lambda: all_ready(server), "both replicas are ready")
    with ThreadPoolExecutor(1) as pool:
        poison = pool.submit(ask, server.port, "faulty", SPINS)
        wait_until(lambda: server.in_flight("faulty") == 1, "it runs")
        with Load(server.port, "faulty", 16) as load:
            wait_until(poison.done, "its time is over")
        assert_unharmed(load)
    assert poison.result()[1]["code"] == "deadline_exceeded"


def test_one_that_eats_all_memory_gets_a_code_and_ends_nothing(server: Server) -> None:
    """The limit makes it an error of that request, tried alone; no process is lost."""
    before = deaths(server)
    status, document = poisoned(server, EATS)
    assert (status, document["code"]) == (500, "memory_limit_exceeded")
    assert deaths(server) == before


def test_code_that_leaks_gets_a_new_process_when_its_limit_is_hit(server: Server) -> None:
    """The request that finds no room gets a code; then there is room again, and others saw none."""
    wait_until(lambda: all_ready(server), "both replicas are ready")
    before = deaths(server)
    with Load(server.port, "faulty", 4) as load:
        outcomes = [200]
        while outcomes[-1] == 200:
            assert len(outcomes) < 200, "nothing leaks"
            outcomes.append(ask(server.port, "faulty", LEAKS)[0])
        assert outcomes[-1] == 500
        wait_until(lambda: sum(deaths(server).values()) > sum(before.values()), "it is replaced")
        wait_until(lambda: all_ready(server), "both replicas are back")
        goes_on(load, load.answered)
    assert_unharmed(load)
    (worker,) = {name for name, count in deaths(server).items() if count > before.get(name, 0)}
    assert worker in replicas(server)
    assert "memory_kept" in (server.home / "logs" / f"{worker}.log").read_text()


def test_a_worker_that_was_stopped_is_replaced(server: Server) -> None:
    """SIGSTOP from outside, amid requests: those move or are tried again, and none fails."""
    names = replicas(server)
    for name in names:
        wait_until(lambda: all_ready(server), "both replicas are ready")
        with Load(server.port, "faulty", 16) as load:
            goes_on(load, 0)
            stop_until_replaced(server, name)
            goes_on(load, load.answered)
        assert_unharmed(load)
    stop_until_replaced(server, "shared-0")
    wait_until(lambda: ask(server.port, "scaled", 3.0)[0] == 200, "the shared worker is back")
    log = (server.home / "logs" / "supervisor.log").read_text()
    for name in (*names, "shared-0"):
        assert f"{name} has given no sign of life" in log


def stop_until_replaced(server: Server, name: str) -> None:
    """Stop a process, and wait until another has its place."""
    pid = server.pid_of(name)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: server.pid_of(name) not in (None, pid), f"another {name}")


def goes_on(load: Load, before: int) -> None:
    """Wait until more is answered than before."""
    wait_until(lambda: load.answered > before + 50, "traffic")
