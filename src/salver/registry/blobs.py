"""Content-addressed storage in a local folder: a blob's name is the SHA-256 of its bytes.

A blob is visible only when it is whole, verified and durable. One that was found damaged since, or
that cannot be read, is visible no more, so that the next upload of the right bytes takes its place.
"""

import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import NamedTuple, Self

from salver.core.durable import fsync_folder, open_regular, storage_errors
from salver.core.errors import BodyTooLarge, DigestMismatch, InvalidName

_HEX_DIGITS = frozenset("0123456789abcdef")
_DIGEST_LENGTH = 64
_CHUNK_BYTES = 1024 * 1024
_PREFIX = 2
_TEMPORARY = "tmp"
_IDLE_S = 3600.0
"""An upload under way, maybe through another control with this folder, writes more often."""
_LOOKS = 3
# These say that the process lacks something, not that the file does.
_NO_DAMAGE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class _State(NamedTuple):
    """What tells a file from one that has taken its place or was written since."""

    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int


def check_digest(sha256: str) -> str:
    """Return the digest, or raise ``InvalidName`` for anything but 64 hexadecimal digits."""
    if not _is_digest(sha256):
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

        Raises ``DigestMismatch`` when the bytes are not those that were announced, or when those
        that were stored before are good no more.
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
        elif not self._store.exists(self._sha256):
            raise DigestMismatch(
                f"blob {self._sha256} was stored, but is damaged or gone by now; send it again"
            )
        return self.size_bytes

    def _open(self) -> BufferedWriter:
        with storage_errors(self._path):
            return self._path.open("xb")


class BlobStore:
    """The folder ``HOME/blobs/sha256`` with one sub-folder for each first byte."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._damaged: dict[str, _State] = {}
        self._marking = Lock()

    def provision(self) -> None:
        """Make the folders and remove what interrupted uploads left."""
        with storage_errors(self.root / "x"):
            (self.root / _TEMPORARY).mkdir(parents=True, exist_ok=True)
        self.drop_leftovers(time.time())
        fsync_folder(self.root)
        fsync_folder(self.root.parent)

    def drop_leftovers(self, now_unix_s: float) -> None:
        """Remove temporary files to which nothing was written for an hour."""
        for path in (self.root / _TEMPORARY).iterdir():
            with suppress(FileNotFoundError):
                if path.lstat().st_mtime < now_unix_s - _IDLE_S:
                    path.unlink()

    def path(self, sha256: str) -> Path:
        """Return where a blob lies; raises ``InvalidName`` for what is no digest."""
        check_digest(sha256)
        return self.root / sha256[:_PREFIX] / sha256

    def exists(self, sha256: str) -> bool:
        """Tell whether a blob is stored, and not known to be damaged."""
        return self.size(sha256) is not None

    def size(self, sha256: str) -> int | None:
        """Return a blob's size in bytes, or None when it is not stored or known to be damaged."""
        state = _look(self.path(sha256))
        if state is None or state == self._damaged.get(sha256):
            return None
        return state.size_bytes

    def hold(self, sha256: str) -> bool:
        """Tell what ``exists`` does, and count as new a blob that somebody is about to need.

        Raises ``StorageFull`` or ``OSError``.
        """
        path = self.path(sha256)
        try:
            with self._marking, storage_errors(path):
                if not self.exists(sha256):
                    return False
                os.utime(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            # A file of somebody else's, or a disk that is read only: it can be used all the same.
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
                raise
        return True

    def begin(self, sha256: str, max_bytes: int) -> BlobWriter:
        """Begin to store a blob, of which the digest is known beforehand.

        One that is stored already is read and verified, which takes as long as hashing it does.
        """
        if self.hold(sha256):
            self.verify(sha256)
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
            what = "damaged" if sha256 in self._damaged else "not stored"
            raise DigestMismatch(f"blob {sha256} is {what}; push it again")
        if size > max_bytes:
            raise BodyTooLarge(f"blob {sha256} has {size} bytes, at most {max_bytes} are read")
        chunks: list[bytes] = []
        if not self._examine(sha256, chunks.append)[0]:
            raise DigestMismatch(f"blob {sha256} is damaged; push it again")
        return b"".join(chunks)

    def verify(self, sha256: str) -> bool:
        """Tell whether the stored bytes still have their digest; if not, it is remembered.

        Bytes that cannot be read have not. What takes a damaged blob's place meanwhile counts.
        """
        for _ in range(_LOOKS):
            is_good, state = self._examine(sha256, len)
            if is_good or state == _look(self.path(sha256)):
                break
        return is_good

    def _examine(self, sha256: str, take: Callable[[bytes], object]) -> tuple[bool, _State | None]:
        """Read a blob; tell whether it is good and which file that was, and remember damage."""
        path = self.path(sha256)
        state = _look(path)
        try:
            file = os.fdopen(open_regular(path), "rb")
        except OSError as error:
            _check_is_damage(error)
            self._remember(sha256, state, is_good=False)
            return False, state
        with file:
            is_good = _has_digest(file, sha256, take)
            with self._marking:
                # Who held it meanwhile has changed its times, and nothing else of it.
                state = _state(os.fstat(file.fileno()))
                self._remember(sha256, state, is_good=is_good)
        return is_good, state

    def _remember(self, sha256: str, state: _State | None, *, is_good: bool) -> None:
        if state is not None and not is_good:
            self._damaged[sha256] = state
        elif state == self._damaged.get(sha256):
            self._damaged.pop(sha256, None)

    def digests(self) -> Iterator[str]:
        """Yield the digest of every stored blob."""
        for folder in self.root.iterdir():
            # Somebody else's, as lost+found, may not even be looked into.
            is_ours = len(folder.name) == _PREFIX and _HEX_DIGITS.issuperset(folder.name)
            if is_ours and folder.is_dir():
                for path in folder.iterdir():
                    if _is_digest(path.name) and path.name.startswith(folder.name):
                        yield path.name

    def discard(self, sha256: str, oldest_unix_s: float) -> bool:
        """Remove a blob, unless it is there since ``oldest_unix_s`` or was held since.

        Tells whether it did; raises ``OSError``. Who holds a blob at this very moment either finds
        it gone or keeps it, whichever process it is in.
        """
        path, aside = self.path(sha256), self.temporary_path()
        try:
            if path.lstat().st_mtime >= oldest_unix_s:
                return False
            path.rename(aside)
        except FileNotFoundError:
            return False
        # It may have been held in between: nobody can do that to a file that is out of its place.
        if aside.lstat().st_mtime >= oldest_unix_s:
            _put_back(aside, path)
            return False
        aside.unlink(missing_ok=True)
        self._damaged.pop(sha256, None)
        return True

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
            self._damaged.pop(sha256, None)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _has_digest(file: BufferedReader, sha256: str, take: Callable[[bytes], object]) -> bool:
    """Hand a file's bytes out; tell whether they are those of the digest and could be read."""
    digest = hashlib.sha256()
    try:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            take(chunk)
    except OSError as error:
        _check_is_damage(error)
        return False
    return digest.hexdigest() == sha256


def _check_is_damage(error: OSError) -> None:
    if error.errno in _NO_DAMAGE:
        raise error


def _is_digest(name: str) -> bool:
    return len(name) == _DIGEST_LENGTH and _HEX_DIGITS.issuperset(name)


def _put_back(aside: Path, path: Path) -> None:
    """Give a file its name back, unless the right bytes were uploaded to it meanwhile."""
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        pass
    except OSError:
        aside.rename(path)
        return
    aside.unlink(missing_ok=True)


def _look(path: Path) -> _State | None:
    """Return the state of a stored file, None if there is none that could be read."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return _state(found) if stat.S_ISREG(found.st_mode) else None


def _state(found: os.stat_result) -> _State:
    return _State(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
