"""Unix sockets at paths of any length, although an address has room for 107 bytes only.

A longer path is named by its folder, which is opened for as long as that takes: the kernel follows
``/proc/self/fd/N`` there, past whatever somebody puts in the place of the folder meanwhile.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_PATH_BYTES = 107


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Give a name of a socket that fits into an address, for as long as the context lasts.

    Raises ``OSError`` for a folder that is not there.
    """
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listening(path: Path, backlog: int) -> socket.socket:
    """Return a socket that listens at a path, of whoever listened there before; raises ``OSError``.

    Nobody but this user may connect.
    """
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        with reachable(path) as name:
            opened.bind(name)
        path.chmod(0o600)
        opened.listen(backlog)
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened
