"""A blob is whole, verified and durable, or not there."""

import errno
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core import durable
from salver.core.errors import BodyTooLarge, DigestMismatch, InvalidName, StorageFull
from salver.registry import blobs
from salver.registry.blobs import BlobStore


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """Give an empty store."""
    store = BlobStore(tmp_path / "blobs" / "sha256")
    store.provision()
    return store


def test_bytes_come_back(store: BlobStore) -> None:
    """What is put is read, sized and verified."""
    sha256 = store.put(b"hello")
    assert sha256 == hashlib.sha256(b"hello").hexdigest()
    assert store.read(sha256, 5) == b"hello"
    assert store.size(sha256) == 5
    assert store.verify(sha256)
    assert store.put(b"hello") == sha256
    assert list(store.digests()) == [sha256]


def test_other_bytes_than_announced_are_not_stored(store: BlobStore) -> None:
    """A wrong digest leaves nothing behind."""
    sha256 = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(DigestMismatch), store.begin(sha256, 100) as writer:
        writer.write(b"wrong")
        writer.commit()
    assert not store.exists(sha256)
    assert list((store.root / "tmp").iterdir()) == []


def flip(path: Path) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Take the last byte away."""
    path.write_bytes(path.read_bytes()[:-1])


def link(path: Path) -> None:
    """Put something in its place that cannot be read."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


def pipe(path: Path) -> None:
    """Put something in its place that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [link, pipe])
def test_what_cannot_be_read_is_repaired(store: BlobStore, damage: Callable[[Path], None]) -> None:
    """It is damaged or lacking, which the right bytes put right."""
    sha256 = store.put(b"hello")
    damage(store.path(sha256))
    assert not store.verify(sha256)
    assert not store.exists(sha256)
    store.put(b"hello")
    assert store.read(sha256, 5) == b"hello"


def test_an_error_of_the_disk_is_damage(tmp_path: Path) -> None:
    """A file that fails while it is read is reported and remembered as damaged."""

    class Failing(BlobStore):
        def path(self, sha256: str) -> Path:
            """Return a file of which the first bytes cannot be read."""
            assert sha256
            return Path("/proc/self/mem")

    store = Failing(tmp_path)
    sha256 = hashlib.sha256(b"hello").hexdigest()
    assert store.exists(sha256)
    assert not store.verify(sha256)
    assert not store.exists(sha256)
    with pytest.raises(DigestMismatch, match="damaged"):
        store.read(sha256, 10)


def test_a_repair_during_a_look_counts(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who began to read the damaged blob does not take the good one for it."""
    sha256 = store.put(b"hello")
    flip(store.path(sha256))
    plain = durable.open_regular

    def repaired_meanwhile(path: Path) -> int:
        descriptor = plain(path)
        monkeypatch.undo()
        copy = store.temporary_path()
        copy.write_bytes(b"hello")
        store.adopt(copy, sha256)
        return descriptor

    monkeypatch.setattr(blobs, "open_regular", repaired_meanwhile)
    assert store.verify(sha256)
    assert store.exists(sha256)


def test_who_holds_a_blob_during_a_look_hides_no_damage(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each look it is held, which changes its times; its damage is remembered all the same."""
    sha256 = store.put(b"hello")
    path = store.path(sha256)
    flip(path)
    reads: list[int] = []

    class Held(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append(1)
            os.utime(path, (len(reads), len(reads)))
            return super().read(size)

    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode: Held(io.FileIO(descriptor, mode)))
    assert not store.verify(sha256)
    assert reads
    assert not store.exists(sha256)
    assert not store.hold(sha256)


def test_who_holds_a_blob_as_its_damage_is_found_hides_it_neither(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a look and a hold at once, one is first: damaged bytes are never held afterwards."""
    sha256 = store.put(b"hello")
    path = store.path(sha256)
    flip(path)
    plain = os.utime
    looking = threading.Thread(target=store.verify, args=(sha256,))

    def found_meanwhile(path: Path) -> None:
        monkeypatch.undo()
        looking.start()
        # The look has read everything, and would be through at once if it did not wait.
        looking.join(0.2)
        plain(path)

    monkeypatch.setattr(os, "utime", found_meanwhile)
    assert store.hold(sha256)
    looking.join()
    assert not store.exists(sha256)


def test_a_restored_file_is_looked_at_anew(store: BlobStore) -> None:
    """Damage that was found is that of the file as it was then, not of a backup in its place."""
    sha256 = store.put(b"hello")
    path = store.path(sha256)
    flip(path)
    assert not store.verify(sha256)
    assert not store.exists(sha256)
    backup = path.with_name("backup")
    backup.write_bytes(b"hello")
    backup.rename(path)
    assert store.exists(sha256)
    assert store.read(sha256, 5) == b"hello"


def test_a_blob_that_goes_during_its_upload_is_not_acknowledged(store: BlobStore) -> None:
    """What was stored at the beginning, so that nothing was kept, has to be there at the end."""
    sha256 = store.put(b"hello")
    with store.begin(sha256, 5) as writer:
        writer.write(b"hello")
        flip(store.path(sha256))
        assert not store.verify(sha256)
        with pytest.raises(DigestMismatch, match="again"):
            writer.commit()


@pytest.mark.parametrize("damage", [flip, cut])
def test_storing_the_right_bytes_again_repairs(
    store: BlobStore, damage: Callable[[Path], None]
) -> None:
    """A damaged blob gives way to the right bytes, whether anybody had noticed or not."""
    sha256 = store.put(b"hello")
    damage(store.path(sha256))
    assert store.put(b"hello") == sha256
    assert store.path(sha256).read_bytes() == b"hello"
    damage(store.path(sha256))
    assert store.exists(sha256)
    with pytest.raises(DigestMismatch):
        store.read(sha256, 100)
    assert not store.exists(sha256)
    assert store.size(sha256) is None
    store.put(b"hello")
    assert store.exists(sha256)
    assert store.read(sha256, 5) == b"hello"


def test_a_sound_blob_is_not_written_again(store: BlobStore) -> None:
    """Storing the same bytes again leaves the file as it is."""
    path = store.path(store.put(b"hello"))
    before = path.stat().st_ino
    store.put(b"hello")
    assert path.stat().st_ino == before


def test_an_upload_that_breaks_off_leaves_nothing(store: BlobStore) -> None:
    """Leaving without commit discards; a restart removes what a crash left, once it is idle.

    Another control with the same folder may be busy with what is not.
    """
    sha256 = hashlib.sha256(b"ab").hexdigest()
    with store.begin(sha256, 100) as writer:
        writer.write(b"a")
    assert list((store.root / "tmp").iterdir()) == []
    for name in ("left", "busy"):
        (store.root / "tmp" / name).write_bytes(b"x")
    os.utime(store.root / "tmp" / "left", (1, 1))
    store.provision()
    assert [path.name for path in (store.root / "tmp").iterdir()] == ["busy"]


def test_sizes_are_bounded(store: BlobStore) -> None:
    """More bytes than allowed are refused while they arrive."""
    sha256 = hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(BodyTooLarge), store.begin(sha256, 2) as writer:
        writer.write(b"abc")
    stored = store.put(b"abc")
    with pytest.raises(BodyTooLarge):
        store.read(stored, 2)


def test_damage_is_found(store: BlobStore) -> None:
    """A flipped bit is seen by verify and by read."""
    sha256 = store.put(b"hello")
    store.path(sha256).write_bytes(b"hellp")
    assert not store.verify(sha256)
    with pytest.raises(DigestMismatch, match="damaged"):
        store.read(sha256, 10)
    assert not store.verify(hashlib.sha256(b"never").hexdigest())


@given(st.text(max_size=80))
def test_only_digests_become_paths(name: str) -> None:
    """Anything but 64 hexadecimal digits is refused before it touches the disk."""
    store = BlobStore(Path("/nonexistent"))
    try:
        path = store.path(name)
    except InvalidName:
        return
    assert path.parent.parent == Path("/nonexistent")
    assert path.name == name


def test_a_blob_that_is_held_is_not_discarded(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever moment: before it is looked at, or while it is about to go."""
    sha256 = store.put(b"hello")
    path = store.path(sha256)
    os.utime(path, (1, 1))
    assert store.hold(sha256)
    assert not store.discard(sha256, 2)
    os.utime(path, (1, 1))
    rename = Path.rename

    def hold_first(source: Path, target: Path) -> Path:
        monkeypatch.undo()
        assert store.hold(sha256)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", hold_first)
    assert not store.discard(sha256, 2)
    assert store.read(sha256, 5) == b"hello"
    assert list((store.root / "tmp").iterdir()) == []
    os.utime(path, (1, 1))
    assert store.discard(sha256, 2)
    assert not store.hold(sha256)
    assert not store.discard(sha256, 2)


def test_what_was_uploaded_while_a_blob_was_about_to_go_stays(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file that somebody held is not put in the place of the right bytes."""
    sha256 = store.put(b"hello")
    flip(store.path(sha256))
    os.utime(store.path(sha256), (1, 1))
    rename = Path.rename

    def replace(source: Path, target: Path) -> Path:
        monkeypatch.undo()
        assert store.hold(sha256)
        rename(source, target)
        store.put(b"hello")
        return target

    monkeypatch.setattr(Path, "rename", replace)
    assert not store.discard(sha256, 2)
    assert store.read(sha256, 5) == b"hello"


def test_a_blob_that_is_asked_for_counts_as_new(store: BlobStore) -> None:
    """Storing bytes that are there holds them, as whoever does is about to need them."""
    sha256 = store.put(b"hello")
    os.utime(store.path(sha256), (1, 1))
    store.put(b"hello")
    assert not store.discard(sha256, 2)
    flip(store.path(sha256))
    assert not store.verify(sha256)
    assert not store.hold(sha256)


def test_a_full_disk_is_named_when_a_blob_is_held(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where even a time takes room, whoever asks hears of the disk."""
    sha256 = store.put(b"hello")

    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, "no room", path)

    monkeypatch.setattr(os, "utime", refuse)
    with pytest.raises(StorageFull):
        store.hold(sha256)


def test_other_files_are_no_blobs(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody has put beside them is let alone, and not even looked into."""
    look = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder.name == "lost+found":
            raise PermissionError(folder)
        return look(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    sha256 = store.put(b"hello")
    (store.path(sha256).with_name("notes.txt")).write_text("mine")
    (store.root / "lost+found").mkdir()
    (store.root / "lost+found" / sha256).write_text("x")
    assert list(store.digests()) == [sha256]


def test_leftovers_of_uploads_go_in_time(store: BlobStore) -> None:
    """Those to which nothing was written for an hour."""
    (store.root / "tmp" / "left").write_bytes(b"x")
    store.drop_leftovers(time.time() + 1800)
    assert (store.root / "tmp" / "left").exists()
    store.drop_leftovers(time.time() + 3700)
    assert not (store.root / "tmp" / "left").exists()
