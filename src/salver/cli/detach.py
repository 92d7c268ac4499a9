"""Starts the supervisor in the background and waits until it is up."""

import subprocess
import time
from pathlib import Path
from typing import Any

import orjson
import typer

from salver.core.errors import Internal

_UP_TIMEOUT_S = 60.0
_BEGINNING_S = 5.0
_POLL_S = 0.05
_TAIL_LINES = 5


def start_detached(arguments: list[str], home: Path) -> None:
    """Start the supervisor in a session of its own; print its addresses when it is up.

    It has its ports then, and its processes have begun or had time to say that they cannot. Raises
    ``Internal`` with the end of its log when it stops or is not up in time.
    """
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / "supervisor.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    deadline = time.monotonic() + _UP_TIMEOUT_S
    while time.monotonic() < deadline:
        state = _state(home, process.pid)
        if state is not None:
            _watch(process, home)
        if state is not None and process.poll() is None:
            typer.echo(f"data port    {state['http_url']}")
            typer.echo(f"gRPC         {state['grpc_target']}")
            typer.echo(f"control API  {state['control_url']}")
            typer.echo(f"pid          {process.pid}   (end it with: salver stop --home {home})")
            return
        if process.poll() is not None:
            raise Internal(f"the server stopped while starting: {_tail(log)}")
        time.sleep(_POLL_S)
    process.terminate()
    raise Internal(f"the server was not up within {_UP_TIMEOUT_S:g} s; see {log}")


def _watch(process: subprocess.Popen[bytes], home: Path) -> None:
    """Return when control has begun, the last of all, or the server has ended, or a while later.

    Control does not begin while its database is away, nor say so on a full disk.
    """
    deadline = time.monotonic() + _BEGINNING_S
    while process.poll() is None and not _has_control(home) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _has_control(home: Path) -> bool:
    """Tell whether the control process that runs now has said where it answers."""
    said, table = _read(home, "control.json"), _read(home, "processes.json")
    pids = {row["identity"]: row["pid"] for row in table.get("processes", ())}
    return "pid" in said and said["pid"] == pids.get("control")


def _state(home: Path, pid: int) -> dict[str, str] | None:
    """Return the addresses once the supervisor has its ports; both then accept connections."""
    state = _read(home, "supervisor.json")
    return state if str(state.get("pid")) == str(pid) else None


def _read(home: Path, name: str) -> dict[str, Any]:
    """Return what a process has written down, nothing as long as it has not."""
    try:
        found: dict[str, Any] = orjson.loads((home / "run" / name).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()[-_TAIL_LINES:]
    return " / ".join(lines) or f"see {log}"
