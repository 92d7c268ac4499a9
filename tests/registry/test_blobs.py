"""A blob is whole, verified and durable, or not there."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.errors import BodyTooLarge, DigestMismatch, InvalidName
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


def test_an_upload_that_breaks_off_leaves_nothing(store: BlobStore) -> None:
    """Leaving without commit discards, and a restart removes what a crash left."""
    sha256 = hashlib.sha256(b"ab").hexdigest()
    with store.begin(sha256, 100) as writer:
        writer.write(b"a")
    assert list((store.root / "tmp").iterdir()) == []
    (store.root / "tmp" / "left").write_bytes(b"x")
    store.provision()
    assert list((store.root / "tmp").iterdir()) == []


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


def test_only_old_and_unneeded_blobs_are_collected(store: BlobStore) -> None:
    """What is needed or fresh stays."""
    needed, old, fresh = store.put(b"needed"), store.put(b"old"), store.put(b"fresh")
    for sha256 in (needed, old):
        os.utime(store.path(sha256), (1, 1))
    assert store.collect({needed}, grace_s=3600) == 1
    assert store.exists(needed)
    assert store.exists(fresh)
    assert not store.exists(old)
