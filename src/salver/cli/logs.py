"""`salver logs`: what the processes wrote."""

import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from salver.cli.options import HomeOption
from salver.client.connection import default_home
from salver.core.errors import NotFound

_FOLLOW_INTERVAL_S = 0.25


def command(
    process: Annotated[
        str | None, typer.Argument(help="Only this process, such as control or gateway-0.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines of each process.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    home: HomeOption = None,
) -> None:
    """Print the newest log lines, each with the process that wrote it.

    Example: salver logs control -n 20
    """
    folder = (home or default_home()) / "logs"
    files = _logs(folder, process)
    if not files and process is not None:
        known = ", ".join(file.stem for file in _logs(folder)) or "none"
        raise NotFound(f"no log of {process!r} in {folder}; there are: {known}")
    if not files:
        raise NotFound(f"no logs in {folder}; start the server with 'salver up' or name its --home")
    positions = {file: _tail(file, lines) for file in files}
    while follow:
        time.sleep(_FOLLOW_INTERVAL_S)
        # Processes may have begun meanwhile.
        files = _logs(folder, process)
        positions = {file: _since(file, positions.get(file, 0)) for file in files}


def _logs(folder: Path, process: str | None = None) -> list[Path]:
    """Return the logs that are there now, or that of one process."""
    files = sorted(folder.glob("*.log"))
    return [file for file in files if process is None or file.stem == process]


def _tail(file: Path, lines: int) -> int:
    with file.open("rb") as source:
        for line in deque(source, maxlen=lines):
            _show(file, line)
        return source.tell()


def _since(file: Path, position: int) -> int:
    if not file.exists():
        return 0
    with file.open("rb") as source:
        if file.stat().st_size >= position:
            source.seek(position)
        for line in source:
            _show(file, line)
        return source.tell()


def _show(file: Path, line: bytes) -> None:
    typer.echo(f"{file.stem:>14}  {line.decode(errors='replace').rstrip()}")
