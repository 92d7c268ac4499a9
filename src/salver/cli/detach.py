"""Starts the supervisor in the background and waits until it is up."""

import subprocess
import time
from pathlib import Path

import orjson
import typer

from salver.core.errors import Internal

_UP_TIMEOUT_S = 60.0
_POLL_S = 0.05
_TAIL_LINES = 5


def start_detached(arguments: list[str], home: Path) -> None:
    """Start the supervisor in a session of its own; print its addresses when it is up.

    Raises ``Internal`` with the end of its log when it stops or is not up in time.
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


def _state(home: Path, pid: int) -> dict[str, str] | None:
    """Return the addresses once the supervisor has its ports; both then accept connections."""
    try:
        state: dict[str, str] = orjson.loads((home / "run" / "supervisor.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return state if str(state.get("pid")) == str(pid) else None


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()[-_TAIL_LINES:]
    return " / ".join(lines) or f"see {log}"
