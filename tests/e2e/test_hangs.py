"""A gateway or control that stands still is replaced; a machine that stood still is not."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from salver.wire import pulse
from tests.e2e import census
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, ask, wait_until
from tests.e2e.test_faults import MOST_LOADS, held_by

LIMIT_S = 6
SETTINGS = f"""
http: {{unresponsive_s: {LIMIT_S}}}
control: {{unresponsive_s: {LIMIT_S}}}
engine: {{unresponsive_s: {LIMIT_S}}}
"""
# Longer than the pause after which the supervisor takes itself for away.
AWAY_NS = 3_000_000_000
CONNECTIONS = 16


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with two gateways and a model's two versions; nobody may be silent for long."""
    home = tmp_path_factory.mktemp("home")
    (home / "salver.yaml").write_text(SETTINGS)
    with Server(home, "--gateways", "2") as running:
        for scale in (2, 3):
            running.push_scaled(tmp_path_factory.mktemp("model"), scale)
        running.ok("deploy", "scaled:1", "--endpoint", "scaled")
        yield running


def silences(server: Server, identity: str) -> int:
    """Count how often a process was killed since it gave no sign of life."""
    log = (server.home / "logs" / "supervisor.log").read_text()
    return log.count(f"{identity} has given no sign of life for")


def test_a_machine_that_stood_still_loses_nobody(server: Server) -> None:
    """All processes stop for longer than any may be silent, and go on after the supervisor does."""
    run, supervisor = server.home / "run", server.supervisor_pid()
    assert supervisor is not None
    before = census.processes(server)

    def beats() -> list[pulse.Beat]:
        return [beat for name in before if (beat := pulse.read(run, name)) is not None]

    assert len(beats()) == len(before)
    # Who starts or loads may be silent for much longer.
    wait_until(
        lambda: all(beat.due_ns - beat.beaten_ns <= LIMIT_S * 1e9 for beat in beats()),
        "all have started",
    )
    everybody = [supervisor, *before.values()]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    # Whatever happens, nobody stays stopped.
    try:
        wait_until(
            lambda: max(beat.due_ns for beat in beats()) + AWAY_NS < time.monotonic_ns(),
            "every promise is broken",
            timeout_s=180,
        )
        os.kill(supervisor, signal.SIGCONT)
        # The supervisor looks a few times before anybody else is back.
        time.sleep(2.0)
    finally:
        for pid in everybody:
            os.kill(pid, signal.SIGCONT)
    now_ns = time.monotonic_ns()
    wait_until(lambda: min(beat.beaten_ns for beat in beats()) > now_ns, "all are back")
    assert census.processes(server) == before
    assert ask(server.port, "scaled", 21.0)[0] == 200


def test_a_stopped_gateway_is_replaced(server: Server) -> None:
    """Its own connections break and are served again, those of the other gateway go on."""
    with ExitStack() as stack:
        loads: list[Load] = []
        held = (0, 0)
        while 0 in held and len(loads) < MOST_LOADS:
            loads.append(stack.enter_context(Load(server.port, "scaled", CONNECTIONS)))
            wait_until(lambda: sum(held_by(server)) == CONNECTIONS * len(loads), "all connected")
            held = held_by(server)
        assert 0 not in held, "one gateway has all connections"
        pid = server.pid_of("gateway-0")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: server.pid_of("gateway-0") not in (None, pid), "the next gateway")
        wait_until(lambda: sum(load.broken for load in loads) >= held[0], "they break")
        wait_until(lambda: sum(held_by(server)) == CONNECTIONS * len(loads), "all are back")
        answered = sum(load.answered for load in loads)
        wait_until(lambda: sum(load.answered for load in loads) > answered + 100, "answers")
        assert ask(server.port, "scaled", 21.0)[0] == 200
    assert sum(load.broken for load in loads) == held[0]
    for load in loads:
        assert not load.failed
        assert load.refused == load.wrong == 0
    assert silences(server, "gateway-0") == 1
    wait_until(
        lambda: server.metric("salver_process_restarts_total", identity="gateway-0") == 1,
        "the restart is counted",
    )


def test_a_stopped_control_is_replaced(server: Server) -> None:
    """What was deployed goes on to be answered, and the next control deploys what it is told."""
    pid = server.pid_of("control")
    assert pid is not None
    with Load(server.port, "scaled", CONNECTIONS) as load:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: server.pid_of("control") not in (None, pid), "the next control")
        wait_until(lambda: server.salver("status").returncode == 0, "control answers again")
        server.ok("deploy", "scaled:2", "--endpoint", "scaled")
        wait_until(lambda: load.factors[3.0] > 0, "version 2 answers")
    assert_unharmed(load)
    assert silences(server, "control") == 1
