"""`salver stop`: end the server of a home folder."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from salver.cli.options import HomeOption
from salver.cli.output import say
from salver.client.connection import default_home
from salver.core.errors import DeadlineExceeded, NotFound
from salver.core.presence import announced

_POLL_S = 0.05


def command(
    home: HomeOption = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds to wait until it has ended.")
    ] = 60.0,
) -> None:
    """Stop the server; requests in flight are answered first.

    Example: salver stop
    """
    folder = home or default_home()
    pid = _supervisor_pid(folder)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while _is_supervisor(pid, folder):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"process {pid} is still finishing requests after {timeout_s:g} s; wait, or run "
                "'salver stop' again to hurry it"
            )
        time.sleep(_POLL_S)
    say("stopped")


def runs(home: Path) -> bool:
    """Tell whether a server runs from a home."""
    try:
        _supervisor_pid(home)
    except NotFound:
        return False
    return True


def _supervisor_pid(home: Path) -> int:
    pid = announced(home / "run" / "supervisor.json").get("pid")
    # The file's writer lives, but in a container its pid is another process's here.
    if not isinstance(pid, int) or not _is_supervisor(pid, home):
        raise NotFound(f"no server runs from {home}; name the right folder with --home")
    return pid


def _is_supervisor(pid: int, home: Path) -> bool:
    """Tell whether the process is alive and ours; a reused pid must not be signalled."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return b"salver.scale.local" in words and _names(home, words) and state != "Z"


def _names(home: Path, words: list[bytes]) -> bool:
    """Tell whether a word is this folder, however its path was written."""
    folder = home.resolve()
    return any(Path(os.fsdecode(word)).resolve() == folder for word in words if word[:1] == b"/")
