"""Removes blobs that no version names any more."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import msgspec

from salver.core.durable import durable_write
from salver.registry.blobs import BlobStore

_LIST = "unneeded.json"


class Collected(NamedTuple):
    """How many blobs were removed, and how many could not be."""

    removed: int
    stuck: int


def collect(
    store: BlobStore, keep: Collection[str], now_unix_s: float, grace_s: float
) -> Collected:
    """Remove blobs that nobody needed for the grace time, whether they were new or held in it.

    ``keep`` is the set of what versions name. Since when others are not needed is written down
    beside them, so that one does not go at the first look, which may have been into the wrong
    database. Raises ``OSError`` and ``StorageFull`` when that cannot be done.
    """
    before, since = _read(store.root / _LIST), dict[str, float]()
    oldest, removed, stuck = now_unix_s - grace_s, 0, 0
    for sha256 in store.digests():
        if sha256 in keep:
            continue
        since[sha256] = min(before.get(sha256, now_unix_s), now_unix_s)
        if since[sha256] > oldest:
            continue
        try:
            is_gone = store.discard(sha256, oldest)
        except OSError:
            stuck += 1
            continue
        if is_gone:
            removed += 1
            del since[sha256]
    if since != before:
        durable_write(store.root / _LIST, msgspec.json.encode(since))
    return Collected(removed, stuck)


def _read(path: Path) -> dict[str, float]:
    """Return since when which blobs are not needed; nothing of a list that cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.MsgspecError):
        return {}
