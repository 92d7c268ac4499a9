"""Blobs that no version names go, and no others."""

import os
import time
from pathlib import Path

import pytest

from salver.registry.blobs import BlobStore
from salver.registry.unneeded import Collected, collect

GRACE_S = 100.0


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """Give an empty store."""
    store = BlobStore(tmp_path / "blobs" / "sha256")
    store.provision()
    return store


def put_old(store: BlobStore, data: bytes) -> str:
    """Store bytes as if long ago."""
    sha256 = store.put(data)
    os.utime(store.path(sha256), (1, 1))
    return sha256


def test_what_is_not_needed_for_long_goes(store: BlobStore) -> None:
    """Not at the first look, however old it is; after a restart the time goes on."""
    needed = put_old(store, b"needed")
    put_old(store, b"old")
    now_s = time.time()
    assert collect(store, {needed}, now_s, GRACE_S) == Collected(0, 0)
    again = BlobStore(store.root)
    again.provision()
    assert collect(again, {needed}, now_s + 50, GRACE_S) == Collected(0, 0)
    assert collect(again, {needed}, now_s + 101, GRACE_S) == Collected(1, 0)
    assert list(store.digests()) == [needed]
    assert collect(again, {needed}, now_s + 500, GRACE_S) == Collected(0, 0)


def test_what_is_needed_again_begins_anew(store: BlobStore) -> None:
    """As after a look into another database than that of these models."""
    sha256 = put_old(store, b"old")
    now_s = time.time()
    collect(store, set(), now_s, GRACE_S)
    collect(store, {sha256}, now_s + 90, GRACE_S)
    assert collect(store, set(), now_s + 180, GRACE_S) == Collected(0, 0)
    assert store.exists(sha256)
    assert collect(store, set(), now_s + 281, GRACE_S) == Collected(1, 0)


def test_what_is_held_begins_anew(store: BlobStore) -> None:
    """A push that finds its bytes stored keeps them for as long as one that sent them."""
    sha256 = put_old(store, b"old")
    now_s = time.time()
    collect(store, set(), now_s - 500, GRACE_S)
    assert store.hold(sha256)
    assert collect(store, set(), now_s + 90, GRACE_S) == Collected(0, 0)
    assert collect(store, set(), now_s + 200, GRACE_S) == Collected(1, 0)


def test_a_list_that_cannot_be_read_begins_anew(store: BlobStore) -> None:
    """Nothing is removed by mistake, and nothing stands still."""
    put_old(store, b"old")
    (store.root / "unneeded.json").write_text('{"')
    now_s = time.time()
    assert collect(store, set(), now_s, GRACE_S) == Collected(0, 0)
    assert collect(store, set(), now_s + 101, GRACE_S) == Collected(1, 0)


def test_one_that_cannot_be_removed_keeps_no_other(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again at the next look."""
    stuck = put_old(store, b"stuck")
    put_old(store, b"old")
    now_s = time.time()
    collect(store, set(), now_s, GRACE_S)
    rename = Path.rename

    def refuse(source: Path, target: Path) -> Path:
        if source.name == stuck:
            raise PermissionError
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert collect(store, set(), now_s + 101, GRACE_S) == Collected(1, 1)
    monkeypatch.undo()
    assert collect(store, set(), now_s + 102, GRACE_S) == Collected(1, 0)
