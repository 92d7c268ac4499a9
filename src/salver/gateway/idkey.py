"""The secret that makes request ids unforgeable, shared by all processes of one home folder."""

import os
import secrets
from pathlib import Path

from salver.core.durable import fsync_folder

_KEY_BYTES = 32


def load_id_key(home: Path) -> bytes:
    """Return the key, made by whichever process comes first."""
    path = home / "ids.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".ids.{os.getpid()}.tmp")
    if not path.exists():
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        temporary.unlink()
        fsync_folder(path.parent)
    return path.read_bytes()
