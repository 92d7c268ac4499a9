"""What a worker's process was loading when it ended, noted for the next one.

A process that a model's file or code ends says nothing any more, and the next one would load the
same. So each notes what it is about to load, and takes it back afterwards.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from salver.wire.notes import Notes

_NOTES = Notes("loads-")
_path, forget, clear = _NOTES.path, _NOTES.forget, _NOTES.clear
_MAX_BYTES = 1024 * 1024


class Attempts(msgspec.Struct, frozen=True):
    """How often processes ended of each load, and which ones are going on; by keys of loads."""

    ends: Mapping[str, int] = {}
    going_on: Collection[str] = ()


def write(folder: Path, worker: str, attempts: Attempts) -> None:
    """Note these attempts of a worker; raises ``OSError``."""
    path = _path(folder, worker)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(msgspec.json.encode(attempts))
    temporary.replace(path)


def read(folder: Path, worker: str) -> Attempts:
    """Return what the last process of a worker noted, nothing where there is no such note."""
    try:
        with _path(folder, worker).open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=Attempts)
    except (OSError, msgspec.DecodeError):
        return Attempts()
