"""Every byte is verified on its way into the private folder."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from salver.core.errors import DigestMismatch, InvalidArtifact, SalverError, StorageFull
from salver.engine.materialize import _read, blob_path, materialize, remove
from salver.wire.messages import FileRef
from tests.disk import no_larger_than, small_disk

DATA = b"model bytes" * 200_000


def store(blobs: Path, data: bytes = DATA) -> FileRef:
    """Store a blob and return its reference as the file a/b.bin."""
    digest = hashlib.sha256(data).hexdigest()
    path = blob_path(blobs, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return FileRef("a/b.bin", digest, len(data))


def test_good_files_are_copied(tmp_path: Path) -> None:
    """The folder holds exactly the files, as files of its own; what was there before is gone."""
    blobs, folder = tmp_path / "blobs", tmp_path / "out"
    folder.mkdir()
    (folder / "old").write_text("old")
    file = store(blobs)
    empty = FileRef("empty", store(blobs, b"").sha256, 0)
    materialize((file, empty), blobs, folder)
    assert (folder / "a" / "b.bin").read_bytes() == DATA
    assert (folder / "empty").read_bytes() == b""
    assert sorted(path.name for path in folder.iterdir()) == ["a", "empty"]
    assert (folder / "a" / "b.bin").stat().st_nlink == 1
    remove(folder)
    remove(folder)
    assert not folder.exists()


def test_without_room_for_copies_the_stored_file_serves(tmp_path: Path) -> None:
    """On a full disk the folder holds links to verified blobs; a damaged one is refused there."""
    blobs, folder = tmp_path / "blobs", tmp_path / "out"
    file = store(blobs)
    stored = blob_path(blobs, file.sha256)
    with no_larger_than(len(DATA) // 2):
        materialize((file,), blobs, folder)
    assert (folder / "a" / "b.bin").read_bytes() == DATA
    assert (folder / "a" / "b.bin").samefile(stored)
    remove(folder)
    assert stored.read_bytes() == DATA
    flip(stored)
    with no_larger_than(len(DATA) // 2), pytest.raises(DigestMismatch, match=r"b\.bin"):
        materialize((file,), blobs, folder)
    assert not folder.exists()


def test_code_gets_no_stored_file_to_write_into(tmp_path: Path) -> None:
    """Without room for a copy a model with code of its own is refused, and the blob stays whole."""
    blobs, folder = tmp_path / "blobs", tmp_path / "out"
    file = store(blobs)
    with no_larger_than(len(DATA) // 2), pytest.raises(StorageFull):
        materialize((file,), blobs, folder, runs_code=True)
    assert not folder.exists()
    materialize((file,), blobs, folder, runs_code=True)
    with (folder / "a" / "b.bin").open("r+b") as own:
        own.write(b"X")
    assert blob_path(blobs, file.sha256).read_bytes() == DATA


def test_a_copy_leaves_the_disk_room_for_others(tmp_path: Path) -> None:
    """What would fit, but take the last of the disk, is a link; for code it is refused."""
    with small_disk(tmp_path / "disk", len(DATA) * 2 + 48 * 1024) as disk:
        if disk is None:
            pytest.skip("only root may mount a disk of its own")
        blobs, folder = disk.folder / "blobs", disk.folder / "out"
        file = store(blobs)
        materialize((file,), blobs, folder)
        assert (folder / "a" / "b.bin").samefile(blob_path(blobs, file.sha256))
        with pytest.raises(StorageFull, match="free space"):
            materialize((file,), blobs, folder, runs_code=True)


def flip(path: Path) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    """Put a link to good bytes where the blob was."""
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def pipe(path: Path) -> None:
    """Put a pipe where the blob was, which nobody writes to."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        link,
        pipe,
        Path.unlink,
        lambda path: path.write_bytes(DATA[:-1]),
        lambda path: path.write_bytes(DATA + b"x"),
    ],
)
def test_damaged_blobs_are_refused(tmp_path: Path, damage: object) -> None:
    """A flipped bit, a missing, shorter, longer or odd blob: refused, and nothing is left."""
    blobs, folder = tmp_path / "blobs", tmp_path / "out"
    file = store(blobs)
    assert callable(damage)
    damage(blob_path(blobs, file.sha256))
    with pytest.raises(DigestMismatch, match=r"b\.bin"):
        materialize((file,), blobs, folder)
    assert not folder.exists()


def test_what_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    """An error of the disk while it reads says so; one of whoever takes the bytes stays its own."""
    file = FileRef("m", hashlib.sha256(b"hello").hexdigest(), 5)
    with pytest.raises(DigestMismatch, match=r"'m' cannot be read"):
        _read(file, Path("/proc/self/mem"), len)

    def full(chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(len(chunk)))

    stored = tmp_path / "stored"
    stored.write_bytes(b"hello")
    with pytest.raises(OSError, match="No space left"):
        _read(file, stored, full)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", ".", "", "a\\b", "a\0b"])
def test_paths_stay_inside(tmp_path: Path, path: str) -> None:
    """A file path that could leave the folder is refused before anything is written."""
    file = store(tmp_path / "blobs")
    with pytest.raises(InvalidArtifact):
        materialize(
            (FileRef(path, file.sha256, file.size_bytes),), tmp_path / "blobs", tmp_path / "out"
        )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["blobs"]


@pytest.mark.parametrize("digest", ["", "..", "a" * 63, "A" * 64, "../" * 21 + "x"])
def test_digests_are_no_paths(tmp_path: Path, digest: str) -> None:
    """Only 64 hexadecimal digits name a blob."""
    with pytest.raises(SalverError):
        blob_path(tmp_path, digest)
