"""What every zip archive is held to before its content is looked at."""

import io
import stat
import struct
import zipfile
from typing import IO

from salver.core.errors import InvalidArtifact

_MAX_RATIO = 200
_RATIO_GRACE_BYTES = 1024 * 1024
_ENCRYPTED = 1
LOCAL_MAGIC = b"PK\x03\x04"
_END = struct.Struct("<4s4H2IH")
_END_MAGIC = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sIQI")
_LOCATOR_MAGIC = b"PK\x06\x07"
_RECORD = struct.Struct("<4sQ2H2I4Q")
_RECORD_MAGIC = b"PK\x06\x06"


def check_frame(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Raise ``InvalidArtifact`` where another reader could find another directory of files.

    The first file is at the beginning, and the directory and what tells of it are at the end,
    each where the next says, with nothing between, before or behind.
    """
    size_bytes = file.seek(0, io.SEEK_END)
    end_at = size_bytes - _END.size
    if end_at < 0 or archive.comment or _bytes(file, 0, len(LOCAL_MAGIC)) != LOCAL_MAGIC:
        raise _framed()
    magic, _, _, *counts, cd_bytes, cd_at, _ = _END.unpack(_bytes(file, end_at, _END.size))
    if magic != _END_MAGIC:
        raise _framed()
    cd_end = end_at
    located = _bytes(file, end_at - _LOCATOR.size, _LOCATOR.size)
    if located.startswith(_LOCATOR_MAGIC):
        cd_end = end_at - _LOCATOR.size - _RECORD.size
        record = _RECORD.unpack(_bytes(file, cd_end, _RECORD.size))
        if record[0] != _RECORD_MAGIC or _LOCATOR.unpack(located)[2] != cd_end:
            raise _framed()
        *counts, cd_bytes, cd_at = record[6:]
    is_whole = cd_at + cd_bytes == cd_end and archive.start_dir == cd_at
    if not is_whole or set(counts) != {len(archive.infolist())}:
        raise _framed()


def _bytes(file: IO[bytes], at: int, count: int) -> bytes:
    """Return so many bytes, zeros where there are none."""
    if at < 0:
        return b"\0" * count
    file.seek(at)
    return file.read(count).ljust(count, b"\0")


def _framed() -> InvalidArtifact:
    return InvalidArtifact(
        "something lies before or behind the archive, or it tells of its files in two ways"
    )


def check_entries(
    entries: list[zipfile.ZipInfo], size_bytes: int, *, most: int, most_bytes: int
) -> None:
    """Raise ``InvalidArtifact`` for bombs, two files of one name, and paths that lead outside.

    ``size_bytes`` is that of the archive; ``most`` files of ``most_bytes`` together may be in it.
    """
    names = [entry.filename for entry in entries]
    if len(names) > most:
        raise InvalidArtifact(f"the archive holds {len(names)} files, over {most}")
    if len(set(names)) != len(names):
        raise InvalidArtifact("the archive holds two files of one name")
    total = sum(entry.file_size for entry in entries)
    if total > most_bytes or total > size_bytes * _MAX_RATIO + _RATIO_GRACE_BYTES:
        raise InvalidArtifact(
            f"the archive of {size_bytes} bytes inflates to {total} bytes, which looks like a bomb"
        )
    for entry in entries:
        parts = entry.filename.split("/")
        if entry.filename.startswith("/") or ".." in parts or "\\" in entry.filename:
            raise InvalidArtifact(f"the archive holds the path {entry.filename[:80]!r}")
        if entry.flag_bits & _ENCRYPTED or stat.S_ISLNK(entry.external_attr >> 16):
            raise InvalidArtifact(f"{entry.filename[:80]!r} is encrypted or a link")
