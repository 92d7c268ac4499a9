"""Puts a version's files into a private folder, verifying every byte on the way.

The copy is what the runtime reads, so that bytes cannot change between the check and the use.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

from salver.core.durable import storage_errors
from salver.core.errors import DigestMismatch, InvalidArtifact
from salver.wire.messages import FileRef

_CHUNK_BYTES = 1024 * 1024
_HEX_DIGITS = frozenset("0123456789abcdef")
_DIGEST_LENGTH = 64


def materialize(files: tuple[FileRef, ...], blobs: Path, folder: Path) -> None:
    """Copy the files from the blob folder into ``folder``, which is made anew.

    Raises ``DigestMismatch`` when a blob is missing, longer, shorter or altered, and
    ``InvalidArtifact`` for a path that would leave the folder. Nothing is left behind then.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    try:
        for file in files:
            _copy(file, blobs, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def blob_path(blobs: Path, sha256: str) -> Path:
    """Return where a blob lies; raises ``DigestMismatch`` for text that is no digest."""
    if len(sha256) != _DIGEST_LENGTH or not _HEX_DIGITS.issuperset(sha256):
        raise DigestMismatch(f"{sha256[:80]!r} is not a SHA-256 digest")
    return blobs / sha256[:2] / sha256


def _copy(file: FileRef, blobs: Path, folder: Path) -> None:
    target = _inside(folder, file.path)
    source = blob_path(blobs, file.sha256)
    digest, copied = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = _open_file(source)
    except OSError as error:
        raise DigestMismatch(
            f"the stored bytes of {file.path!r} cannot be read ({error.strerror}); push it again"
        ) from error
    with os.fdopen(descriptor, "rb") as reader, storage_errors(target), target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            copied += len(chunk)
            if copied > file.size_bytes:
                break
            digest.update(chunk)
            writer.write(chunk)
    if copied != file.size_bytes or digest.hexdigest() != file.sha256:
        raise DigestMismatch(
            f"the stored bytes of {file.path!r} are not those that were pushed; restore blob "
            f"{file.sha256} from a backup, or push the model again"
        )


def _open_file(path: Path) -> int:
    """Open a regular file only; a pipe would block for ever and a link could point anywhere."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def _inside(folder: Path, path: str) -> Path:
    parts = path.split("/")
    if "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise InvalidArtifact(f"file path {path[:200]!r} does not stay inside the artifact")
    return folder.joinpath(*parts)


def remove(folder: Path) -> None:
    """Remove a materialised version; harmless when it is gone."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
