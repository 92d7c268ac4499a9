"""A service manager is told when a server is up, that it lives, and when it stops."""

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from salver.core.presence import announced
from tests.e2e.server import SALVER, wait_until

_PATIENCE_S = 60.0
_PERIOD_S = 1.0


def until(manager: socket.socket, state: str) -> list[str]:
    """Return the next datagram with a state in it; only signs of life come before."""
    while True:
        told = manager.recv(4096).decode().splitlines()
        if state in told:
            return told
        assert told == ["WATCHDOG=1"]


def variables_of(pid: int) -> set[str]:
    """Return the names of a process's environment variables."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return set()
    return {word.partition(b"=")[0].decode() for word in words}


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have."""
    found = []
    for children in Path("/proc").glob(f"{pid}/task/*/children"):
        # One that has ended meanwhile has none.
        with suppress(OSError):
            found += [int(word) for word in children.read_text().split()]
    return found + [further for child in found for further in descendants(child)]


def is_stopped(pid: int) -> bool:
    """Tell whether a process stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_server_as_a_service(tmp_path: Path) -> None:
    """Up when its addresses are known; a hang is silence; children speak to no manager."""
    home, name = tmp_path / "home", f"salver-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(_PATIENCE_S)
        period = str(round(_PERIOD_S * 1e6))
        own = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": period}
        ports = ("--http-port", "0", "--grpc-port", "0", "--control-port", "0")
        command = [str(SALVER), "up", "--home", str(home), *ports]
        with subprocess.Popen(command, env={**os.environ, **own}) as server:
            try:
                _, status = until(manager, "READY=1")
                state = announced(home / "run" / "supervisor.json")
                assert state["pid"] == server.pid
                assert status.startswith(f"STATUS=data port {state['http_url']}")
                until(manager, "WATCHDOG=1")
                wait_until(lambda: len(descendants(server.pid)) >= 3, "gateway, worker, control")
                # One that has just been forked shows its parent's until it is another program.
                wait_until(
                    lambda: not any(variables_of(pid) & {*own} for pid in descendants(server.pid)),
                    "no child has the variables",
                )
                server.send_signal(signal.SIGSTOP)
                wait_until(lambda: is_stopped(server.pid), "it stands still")
                manager.setblocking(False)
                with pytest.raises(BlockingIOError):
                    while True:
                        manager.recv(4096)
                manager.settimeout(_PERIOD_S)
                with pytest.raises(TimeoutError):
                    manager.recv(4096)
                manager.settimeout(_PATIENCE_S)
                server.send_signal(signal.SIGCONT)
                until(manager, "WATCHDOG=1")
                server.terminate()
                until(manager, "STOPPING=1")
                assert server.wait(_PATIENCE_S) == 0
            finally:
                server.kill()
