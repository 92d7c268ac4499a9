"""Secrets that a home folder keeps, readable by their owner only."""

import os
import secrets
from pathlib import Path

from salver.core.durable import fsync_folder, storage_errors


def load_secret(path: Path, size_bytes: int) -> bytes:
    """Return the secret in ``path``, made by whichever process comes first.

    The file holds URL-safe text of ``size_bytes`` random bytes. Raises ``StorageFull``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _make(path, size_bytes)
    path.chmod(0o600)
    return path.read_bytes().strip()


def _make(path: Path, size_bytes: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(secrets.token_urlsafe(size_bytes).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename, a link does not replace what another process has just made.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        fsync_folder(path.parent)
