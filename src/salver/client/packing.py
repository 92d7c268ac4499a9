"""What a push takes from the disk: regular files only, each with its digest."""

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from salver.core.errors import InvalidArtifact, NotFound

MAX_FILES = 1000
_MAX_DEPTH = 16
_MAX_PART_BYTES = 255
_CHUNK_BYTES = 1024 * 1024
_COMPILED = "__pycache__"


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file of an artifact: its path inside it, and where its bytes are."""

    path: str
    sha256: str
    size_bytes: int
    source: Path


def pack(path: Path) -> list[PackedFile]:
    """Return the files of a model file or folder, sorted by path; none of ``__pycache__``.

    Raises ``NotFound``, or ``InvalidArtifact`` for symbolic and hard links, devices, sockets,
    names that are not portable, and files that change meanwhile.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        return [_pack_file(path, path.name)]
    files = [_pack_file(file, str(file.relative_to(path))) for file in _walk(path, _MAX_DEPTH)]
    if not files:
        raise InvalidArtifact(f"{path} holds no files")
    if len(files) > MAX_FILES:
        raise InvalidArtifact(f"{path} holds {len(files)} files, at most {MAX_FILES} are allowed")
    return sorted(files, key=lambda file: file.path)


def check_path(path: str) -> str:
    """Return the path of a file inside an artifact, or raise ``InvalidArtifact``."""
    parts = path.split("/")
    sound = (
        unicodedata.is_normalized("NFC", path)
        and path.isprintable()
        and "\\" not in path
        and all(part not in ("", ".", "..") for part in parts)
        and all(len(part.encode()) <= _MAX_PART_BYTES for part in parts)
        and len(parts) <= _MAX_DEPTH
    )
    if not sound:
        raise InvalidArtifact(
            f"file path {path[:200]!r} is not allowed: use relative paths of plain names"
        )
    return path


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if depth == 0:
        raise InvalidArtifact(f"{folder} is nested too deeply")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise InvalidArtifact(f"{entry.path} is a symbolic link; put the file itself there")
            if entry.is_dir(follow_symlinks=False):
                if entry.name == _COMPILED:
                    continue
                yield from _walk(Path(entry.path), depth - 1)
            else:
                yield Path(entry.path)


def _pack_file(source: Path, path: str) -> PackedFile:
    check_path(path)
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if source.is_symlink():
            raise InvalidArtifact(
                f"{source} is a symbolic link; put the file itself there"
            ) from error
        raise InvalidArtifact(f"{source}: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise InvalidArtifact(f"{source} is not a regular file")
        if before.st_nlink != 1:
            raise InvalidArtifact(
                f"{source} has {before.st_nlink} hard links, so others can change it; copy it first"
            )
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
        after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InvalidArtifact(f"{source} changed while it was read; push again when it is done")
    return PackedFile(path, digest.hexdigest(), before.st_size, source)
