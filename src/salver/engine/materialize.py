"""Puts a version's files into a private folder, verifying every byte on the way.

The copy is what the runtime reads, so that bytes cannot change between the check and the use. On
a full disk a worker that restarts could then serve nothing, so there the stored file itself takes
the copy's place once it was verified: nobody writes into a blob that is in its place. A model that
brings code of its own might, so that it gets a copy or nothing.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from salver.core.durable import open_regular, storage_errors
from salver.core.errors import DigestMismatch, InvalidArtifact, StorageFull
from salver.wire.messages import FileRef

_CHUNK_BYTES = 1024 * 1024
_HEX_DIGITS = frozenset("0123456789abcdef")
_DIGEST_LENGTH = 64
# What a copy leaves to the others that write to this disk: the database, logs, uploads.
_SPARE_BYTES, _SPARE_PART = 64 * 1024 * 1024, 64


def materialize(
    files: tuple[FileRef, ...], blobs: Path, folder: Path, *, runs_code: bool = False
) -> None:
    """Copy the files from the blob folder into ``folder``, which is made anew.

    Without room for a copy a file is a hard link, unless the model ``runs_code`` of its own. Raises
    ``DigestMismatch`` when a blob is missing, longer, shorter or altered, ``InvalidArtifact`` for a
    path that would leave the folder, and ``StorageFull`` where there is room for neither. Nothing
    is left behind then.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with storage_errors(folder):
            folder.mkdir(parents=True, mode=0o700)
        for file in files:
            _place(file, blobs, folder, may_link=not runs_code)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def blob_path(blobs: Path, sha256: str) -> Path:
    """Return where a blob lies; raises ``DigestMismatch`` for text that is no digest."""
    if len(sha256) != _DIGEST_LENGTH or not _HEX_DIGITS.issuperset(sha256):
        raise DigestMismatch(f"{sha256[:80]!r} is not a SHA-256 digest")
    return blobs / sha256[:2] / sha256


def _place(file: FileRef, blobs: Path, folder: Path, *, may_link: bool) -> None:
    target = _inside(folder, file.path)
    source = blob_path(blobs, file.sha256)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_room(target, file.size_bytes)
        with storage_errors(target), target.open("xb") as writer:
            _read(file, source, writer.write)
    except StorageFull as full:
        target.unlink(missing_ok=True)
        if not may_link:
            raise
        _read(file, source, len)
        try:
            target.hardlink_to(source)
        except OSError:
            raise full from None


def _check_room(target: Path, size_bytes: int) -> None:
    """Raise ``StorageFull`` before a copy begins that would take the last of the disk.

    A file system without a size of its own says that it has no blocks at all.
    """
    disk = os.statvfs(target.parent)
    free_bytes = disk.f_bavail * disk.f_frsize
    spare_bytes = min(_SPARE_BYTES, disk.f_blocks * disk.f_frsize // _SPARE_PART)
    if size_bytes and disk.f_blocks and free_bytes < size_bytes + spare_bytes:
        raise StorageFull(
            f"no room left on the disk of {target.parent} for {size_bytes} bytes ({free_bytes} are "
            f"free, {spare_bytes} stay so); free space there and try again"
        )


def _read(file: FileRef, source: Path, take: Callable[[bytes], object]) -> None:
    """Hand a blob's bytes out; raises ``DigestMismatch`` unless they were those of the file."""
    digest, size_bytes = hashlib.sha256(), 0
    try:
        descriptor = open_regular(source)
    except OSError as error:
        raise _unreadable(file, error) from error
    with os.fdopen(descriptor, "rb") as reader:
        while chunk := _chunk(file, reader):
            size_bytes += len(chunk)
            if size_bytes > file.size_bytes:
                break
            digest.update(chunk)
            take(chunk)
    if size_bytes != file.size_bytes or digest.hexdigest() != file.sha256:
        raise DigestMismatch(
            f"the stored bytes of {file.path!r} are not those that were pushed; push the model "
            f"again, or restore blob {file.sha256} from a backup"
        )


def _chunk(file: FileRef, reader: BufferedReader) -> bytes:
    """Read on; what cannot be read is damaged, whereas writing has errors of its own."""
    try:
        return reader.read(_CHUNK_BYTES)
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: FileRef, error: OSError) -> DigestMismatch:
    told = f"the stored bytes of {file.path!r} cannot be read ({error.strerror}); push it again"
    if isinstance(error, FileNotFoundError):
        told += (
            " to this home's control; if it was pushed to another one with the same database, let "
            "both homes share one folder of models (HOME/blobs)"
        )
    return DigestMismatch(told)


def _inside(folder: Path, path: str) -> Path:
    parts = path.split("/")
    if "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise InvalidArtifact(f"file path {path[:200]!r} does not stay inside the artifact")
    return folder.joinpath(*parts)


def remove(folder: Path) -> None:
    """Remove a materialised version; harmless when it is gone."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
