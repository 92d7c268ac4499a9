"""Starts the supervisor in the background and waits until it is up."""

import subprocess
import time
from pathlib import Path
from typing import Any

import orjson
import typer

from salver.cli.output import note
from salver.core.errors import Internal
from salver.core.presence import announced

_UP_TIMEOUT_S = 60.0
_BEGINNING_S = 20.0
_POLL_S = 0.05
_TAIL_LINES = 5


def start_detached(arguments: list[str], home: Path) -> None:
    """Start the supervisor in a session of its own; print its addresses when it is up.

    It has its ports then, and its gateways and control have begun or had time to say that they
    cannot; which have not is said. Raises ``Internal`` with the end of its log when it stops or is
    not up in time.
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
        late: list[str] = []
        if state is not None:
            late = _watch(process, home)
        if state is not None and process.poll() is None:
            typer.echo(f"data port    {state['http_url']}")
            typer.echo(f"gRPC         {state['grpc_target']}")
            typer.echo(f"control API  {state['control_url']}")
            typer.echo(f"pid          {process.pid}   (end it with: salver stop --home {home})")
            if late:
                note(f"note: not begun yet: {', '.join(late)}; see 'salver logs {late[0]}'")
            return
        if process.poll() is not None:
            raise Internal(f"the server stopped while starting: {_tail(log)}")
        time.sleep(_POLL_S)
    process.terminate()
    raise Internal(f"the server was not up within {_UP_TIMEOUT_S:g} s; see {log}")


def _watch(process: subprocess.Popen[bytes], home: Path) -> list[str]:
    """Return when all have begun, or the server has ended, or a while later; tells who has not.

    Control does not begin while its database is away, and nobody says so on a full disk.
    """
    deadline = time.monotonic() + _BEGINNING_S
    while (late := _late(home)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return late


def _late(home: Path) -> list[str]:
    """Return the gateways and control whose processes of now have not said where they answer.

    Control is one of them until it is in the table, as the last of all.
    """
    rows = _rows(home / "run" / "processes.json")
    pids = {row["identity"]: row["pid"] for row in rows if row["role"] in ("gateway", "control")}
    pids.setdefault("control", None)
    said = {identity: _said(home, identity).get("pid") for identity in pids}
    return [name for name, pid in pids.items() if pid is None or said[name] != pid]


def _state(home: Path, pid: int) -> dict[str, str] | None:
    """Return the addresses once the supervisor has its ports; both then accept connections."""
    state = _said(home, "supervisor")
    return state if str(state.get("pid")) == str(pid) else None


def _said(home: Path, identity: str) -> dict[str, Any]:
    """Return what a living process has written down; one before it may have had the same pid."""
    return announced(home / "run" / f"{identity}.json")


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the table of processes, empty as long as there is none."""
    try:
        found: list[dict[str, Any]] = orjson.loads(path.read_bytes())["processes"]
    except (OSError, orjson.JSONDecodeError, KeyError):
        return []
    return found


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()[-_TAIL_LINES:]
    return " / ".join(lines) or f"see {log}"
