"""What one server at a time takes of a machine: its home folder and its ports."""

import fcntl
import os
import socket
from pathlib import Path

from salver.core.errors import Conflict

_BACKLOG = 4096


def lock(path: Path) -> int:
    """Hold a file while this process lives; raises ``Conflict`` while another one does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(descriptor, 32).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise Conflict(
            f"a server already runs from {path.parent.parent} (pid {owner}); stop it with "
            "'salver stop' or use another --home"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def listen(host: str, port: int, option: str) -> socket.socket:
    """Return a socket that children inherit; raises ``Conflict`` naming the ``option``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise Conflict(
            f"{host}:{port} cannot be used ({error.strerror}); choose another {option}, 0 for any"
        ) from error
    listening.setblocking(False)
    listening.set_inheritable(True)
    return listening
