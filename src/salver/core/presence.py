"""Files in which a process says where it is found, and which count only while it lives."""

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from salver.core.durable import open_regular, storage_errors

_PLACE = "place"


def announce(path: Path, facts: Mapping[str, object]) -> int:
    """Replace a file by ``facts``, which count until the returned descriptor is closed.

    The kernel closes it, too, however the process ends; it has to be left to no other process.
    Raises ``StorageFull`` or ``OSError``; the old content then stays.
    """
    document = orjson.dumps({**facts, _PLACE: place()})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        # Nobody else may open it, as whoever can may hold its lock and make it look alive.
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # A disk that knows no locks has files that count for nothing.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(descriptor, "wb", closefd=False) as file:
                file.write(document)
            # Not synced: after a crash of the machine it counts for nothing anyway.
            os.replace(temporary, path)
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    return descriptor


def withdraw(path: Path, descriptor: int) -> None:
    """Let it count no more, and remove it where that can be done and no other took its place."""
    with contextlib.suppress(OSError):
        if os.path.samestat(path.stat(), os.fstat(descriptor)):
            path.unlink()
    os.close(descriptor)


def announced(path: Path) -> dict[str, Any]:
    """Return the facts of a file if the process that wrote them lives and is of this place.

    Nothing otherwise, nor where the file may not be read. The lock is on the very file that is
    read, so that no pid and no other process is asked, and no later writer vouches for it.
    """
    try:
        descriptor = open_regular(path)
    except OSError:
        return {}
    with open(descriptor, "rb") as file:
        try:
            document = orjson.loads(file.read()) if _is_held(descriptor) else None
        except (OSError, orjson.JSONDecodeError):
            return {}
    if not isinstance(document, dict) or document.pop(_PLACE, None) != place():
        return {}
    return document


def place() -> str:
    """Tell within what an address on loopback is the same: a boot of a machine, a network."""
    boot = network = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        network = str(Path("/proc/self/ns/net").readlink())
    return f"{boot} {network}"


def _is_held(descriptor: int) -> bool:
    """Tell whether its writer holds it; readers do not keep each other from it, nor the writer."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
