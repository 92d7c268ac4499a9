"""Files that a command reads and writes for its user."""

import sys
from pathlib import Path

from salver.core.errors import InvalidExample, InvalidSettings

_STDIN = "-"
_MAX_BYTES = 256 * 1024 * 1024


def read_input(file: str) -> bytes:
    """Return what a file, or ``-`` for stdin, holds; raises ``InvalidExample``."""
    if file == _STDIN:
        data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    else:
        try:
            with Path(file).open("rb") as source:
                data = source.read(_MAX_BYTES + 1)
        except OSError as error:
            raise InvalidExample(f"{file}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise InvalidExample(f"{file} is over {_MAX_BYTES} bytes; send it in parts")
    return data


def check_writable(path: Path | None) -> None:
    """Raise ``InvalidSettings`` where a result could not be written, before it takes long."""
    if path is None:
        return
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be written: {error.strerror}") from error
