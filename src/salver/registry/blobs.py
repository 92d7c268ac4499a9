"""Content-addressed storage in a local folder: a blob's name is the SHA-256 of its bytes.

A blob is visible only when it is whole, verified and durable.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Self

from salver.core.durable import fsync_folder, storage_errors
from salver.core.errors import BodyTooLarge, DigestMismatch, InvalidName

_HEX_DIGITS = frozenset("0123456789abcdef")
_DIGEST_LENGTH = 64
_CHUNK_BYTES = 1024 * 1024
_TEMPORARY = "tmp"


def check_digest(sha256: str) -> str:
    """Return the digest, or raise ``InvalidName`` for anything but 64 hexadecimal digits."""
    if len(sha256) != _DIGEST_LENGTH or not _HEX_DIGITS.issuperset(sha256):
        raise InvalidName(f"{sha256[:80]!r} is not a SHA-256 digest in lower-case hexadecimal")
    return sha256


class BlobWriter:
    """One blob on its way in; ``commit`` makes it visible, leaving without it discards it."""

    def __init__(self, store: "BlobStore", sha256: str, max_bytes: int) -> None:
        self._store = store
        self._sha256 = check_digest(sha256)
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self._path = store.temporary_path()
        self._file: BufferedWriter | None = None if store.exists(sha256) else self._open()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Discard what was not committed."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Take more bytes; raises ``StorageFull`` or ``BodyTooLarge``."""
        self.size_bytes += len(chunk)
        if self.size_bytes > self._max_bytes:
            raise BodyTooLarge(f"the file is over the limit of {self._max_bytes} bytes")
        self._digest.update(chunk)
        if self._file is not None:
            with storage_errors(self._path):
                self._file.write(chunk)

    def commit(self) -> int:
        """Make the blob visible and durable; returns its size.

        Raises ``DigestMismatch`` when the bytes are not those that were announced.
        """
        if self._digest.hexdigest() != self._sha256:
            raise DigestMismatch(
                f"the bytes that arrived do not have the digest {self._sha256}; send them again"
            )
        file, self._file = self._file, None
        if file is not None:
            try:
                with storage_errors(self._path), file:
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                self._path.unlink(missing_ok=True)
                raise
            self._store.adopt(self._path, self._sha256)
        return self.size_bytes

    def _open(self) -> BufferedWriter:
        with storage_errors(self._path):
            return self._path.open("xb")


class BlobStore:
    """The folder ``HOME/blobs/sha256`` with one sub-folder for each first byte."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def provision(self) -> None:
        """Make the folders and remove what an interrupted upload left."""
        temporary = self.root / _TEMPORARY
        with storage_errors(self.root / "x"):
            temporary.mkdir(parents=True, exist_ok=True)
        for path in temporary.iterdir():
            path.unlink(missing_ok=True)
        fsync_folder(self.root)
        fsync_folder(self.root.parent)

    def path(self, sha256: str) -> Path:
        """Return where a blob lies; raises ``InvalidName`` for what is no digest."""
        check_digest(sha256)
        return self.root / sha256[:2] / sha256

    def exists(self, sha256: str) -> bool:
        """Tell whether a blob is stored."""
        return self.path(sha256).is_file()

    def size(self, sha256: str) -> int | None:
        """Return a blob's size in bytes, or None when it is not stored."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def begin(self, sha256: str, max_bytes: int) -> BlobWriter:
        """Begin to store a blob, of which the digest is known beforehand."""
        return BlobWriter(self, sha256, max_bytes)

    def put(self, data: bytes) -> str:
        """Store bytes and return their digest."""
        sha256 = hashlib.sha256(data).hexdigest()
        with self.begin(sha256, len(data)) as writer:
            writer.write(data)
            writer.commit()
        return sha256

    def read(self, sha256: str, max_bytes: int) -> bytes:
        """Return a small blob's bytes, verified; raises ``DigestMismatch`` or ``BodyTooLarge``."""
        size = self.size(sha256)
        if size is None:
            raise DigestMismatch(f"blob {sha256} is not stored; push it again")
        if size > max_bytes:
            raise BodyTooLarge(f"blob {sha256} has {size} bytes, at most {max_bytes} are read")
        data = self.path(sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DigestMismatch(f"blob {sha256} is damaged; restore it from a backup")
        return data

    def verify(self, sha256: str) -> bool:
        """Tell whether the stored bytes still have their digest."""
        digest = hashlib.sha256()
        try:
            with self.path(sha256).open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except FileNotFoundError:
            return False
        return digest.hexdigest() == sha256

    def digests(self) -> Iterator[str]:
        """Yield the digest of every stored blob."""
        for folder in self.root.iterdir():
            if folder.name != _TEMPORARY and folder.is_dir():
                for path in folder.iterdir():
                    yield path.name

    def collect(self, keep: set[str], grace_s: float) -> int:
        """Remove blobs that nobody needs and that are older than the grace time."""
        removed = 0
        oldest = time.time() - grace_s
        for sha256 in list(self.digests()):
            path = self.path(sha256)
            if sha256 not in keep and path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def temporary_path(self) -> Path:
        """Return a fresh place for bytes on their way in, on the same file system."""
        return self.root / _TEMPORARY / secrets.token_hex(16)

    def adopt(self, temporary: Path, sha256: str) -> None:
        """Give a complete, synced file its final name, durably."""
        target = self.path(sha256)
        try:
            with storage_errors(target):
                if not target.parent.exists():
                    target.parent.mkdir(exist_ok=True)
                    fsync_folder(self.root)
                os.replace(temporary, target)
                fsync_folder(target.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
