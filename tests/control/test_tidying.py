"""Control removes what nobody needs, and nothing that somebody does."""

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from salver.artifact.manifest import FileEntry, Manifest
from salver.control.audit import Audit, AuditTidier
from salver.control.database import DatabaseThread
from salver.control.push import Push, Pusher
from salver.control.tidying import GRACE_S, BlobTidier, Chore, Tidying
from salver.core.clock import ManualClock, SystemClock
from salver.core.errors import ControlUnavailable
from salver.core.settings import Settings
from salver.registry.blobs import BlobStore
from salver.registry.catalog import Catalog
from salver.registry.database import Database, sqlite_url
from salver.registry.lease import Lease
from salver.registry.records import VersionRecord
from salver.registry.state import StateStore
from salver.registry.unneeded import collect
from tests import models
from tests.control.parts import control
from tests.e2e.server import Server, write_rows


class LaterClock(SystemClock):
    """The machine's clock some days on."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s

    def unix_ns(self) -> int:
        """Return what the machine's will say then."""
        return time.time_ns() + round(self._ahead_s * 1e9)


@pytest.fixture
def thread() -> Iterator[DatabaseThread]:
    """Give the thread of the database."""
    thread = DatabaseThread()
    yield thread
    thread.stop()


def tidy(home: Path, thread: DatabaseThread, ahead_s: float) -> int:
    """Do in a home what its control would do when so much time has gone by."""
    database, clock = Database(sqlite_url(home / "salver.db")), LaterClock(ahead_s)
    database.provision()
    blobs = BlobStore(home / "blobs" / "sha256")
    removed = asyncio.run(BlobTidier(blobs, Catalog(database, clock), thread, clock)())
    database.close()
    return removed


def test_what_a_refused_push_left_goes_and_what_answers_stays(
    tmp_path: Path, thread: DatabaseThread
) -> None:
    """With its golden examples, across a restart; bytes that are asked for meanwhile stay too."""
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"no model")
    sha256 = hashlib.sha256(b"no model").hexdigest()
    with Server(tmp_path / "home") as server:
        server.push_scaled(tmp_path, 2)
        assert server.salver("push", str(garbage), "--name", "bad").returncode != 0
        blobs = BlobStore(server.home / "blobs" / "sha256")
        assert blobs.exists(sha256)
        assert len(list(blobs.digests())) == len(("model", "example", "golden", "garbage"))
        assert tidy(server.home, thread, -7200) == 0
        for known in blobs.digests():
            os.utime(blobs.path(known), (1, 1))
        url = f"{server.state()['control_url']}/api/v1/blobs/{sha256}"
        token = {"authorization": f"Bearer {(server.home / 'control.token').read_text()}"}
        assert httpx.head(url, headers=token).status_code == 200
        assert tidy(server.home, thread, GRACE_S - 3600) == len(("example",))
        assert blobs.exists(sha256)
        server.ok("stop")
        assert tidy(server.home, thread, 2 * GRACE_S) == len(("garbage",))
        assert not blobs.exists(sha256)
        assert len(list(blobs.digests())) == len(("model", "golden"))
        server.up()
        server.ok("deploy", "scaled")
        server.ok("predict", "scaled", str(write_rows(tmp_path / "rows.json", [[1.0, 2.0]])))


def test_what_a_killed_control_left_of_an_upload_goes_within_hours(
    tmp_path: Path, thread: DatabaseThread
) -> None:
    """An hour after its last byte, without a restart; what still comes stays."""
    database, clock = Database(sqlite_url(tmp_path / "salver.db")), LaterClock(0.0)
    blobs = BlobStore(tmp_path / "blobs")
    blobs.provision()
    old, new = blobs.temporary_path(), blobs.temporary_path()
    for path in (old, new):
        path.write_bytes(b"half a model")
    os.utime(old, (time.time() - 3700, time.time() - 3700))
    asyncio.run(BlobTidier(blobs, Catalog(database, clock), thread, clock).drop_leftovers())
    assert (old.exists(), new.exists()) == (False, True)
    database.close()


class Slow(Catalog):
    """One before which an examination took days, and in which blobs are removed before a commit."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        super().__init__(database, ManualClock())
        self.blobs = blobs
        self.removed = 0

    def reach(self) -> None:
        """Let the bytes that are about to be examined have come long ago."""
        for sha256 in self.blobs.digests():
            os.utime(self.blobs.path(sha256), (1, 1))

    def create_version(
        self, model: str, manifest: Manifest, created_by: str, marks: Mapping[str, str]
    ) -> tuple[VersionRecord, bool]:
        """Store a version, but remove before what none needs so far."""
        self.removed += collect(self.blobs, set(), time.time(), GRACE_S).removed
        return super().create_version(model, manifest, created_by, marks)


def test_no_version_loses_bytes_that_came_long_before_it(
    tmp_path: Path, thread: DatabaseThread
) -> None:
    """However long the examination took, and whatever is removed just before the version."""
    database = Database(f"sqlite:///{tmp_path / 'salver.db'}")
    database.provision()
    blobs = BlobStore(tmp_path / "blobs")
    blobs.provision()
    catalog = Slow(database, blobs)
    content = models.onnx_identity("FP32", 2).read_bytes()
    file, other = FileEntry("model.onnx", blobs.put(content), len(content)), blobs.put(b"other")
    collect(blobs, set(), time.time() - 2 * GRACE_S, GRACE_S)

    async def move(model: str, alias: str, version: int, *, by: str) -> None:
        raise AssertionError((model, alias, version, by))

    audit = Audit(StateStore(database, ManualClock()), thread)
    lease = Lease(database, "only", ManualClock())
    pusher = Pusher(blobs, catalog, thread, Settings(), move, audit, lease)
    record = asyncio.run(pusher(Push("m", (file,)))).record
    assert (catalog.removed, blobs.exists(other)) == (1, False)
    assert all(blobs.exists(sha256) for sha256 in record.manifest.blobs)
    database.close()


@pytest.mark.parametrize(("days", "kept"), [(30.0, 1), (60.0, 3), (0.0, 3), (-1.0, 3)])
def test_lines_of_the_audit_log_go_in_time(tmp_path: Path, days: float, kept: int) -> None:
    """After as many days as are set, 0 being none; only who is in charge removes them."""
    clock = ManualClock()
    first, second = control(tmp_path, "one", clock), control(tmp_path, "two", clock)
    for version in ("m:1", "m:2"):
        first.state.record("alice", "push", version, {})
    clock.advance(40 * 86_400)
    first.state.record("alice", "push", "m:3", {})
    removed = [
        asyncio.run(AuditTidier(parts.state, parts.thread, parts.lease, clock, days)())
        for parts in (second, first)
    ]
    assert removed == [0, 3 - kept]
    assert len(first.state.events()) == kept
    for parts in (first, second):
        parts.thread.stop()


def test_a_clock_that_is_far_ahead_does_not_empty_the_audit_log(tmp_path: Path) -> None:
    """Its lines are old only beside newer ones."""
    clock = ManualClock()
    parts = control(tmp_path, "one", clock)
    parts.state.record("alice", "push", "m:1", {})
    ahead = ManualClock()
    ahead.advance(1_000 * 86_400)
    tidier = AuditTidier(parts.state, parts.thread, parts.lease, ahead, 30.0)
    assert asyncio.run(tidier()) == 0
    assert len(parts.state.events()) == 1
    parts.thread.stop()


def test_a_chore_is_done_again_whatever_became_of_it() -> None:
    """Also after a database that was away and a fault of Salver's; others go on beside it."""
    outcomes: list[Exception] = [ControlUnavailable("away"), RuntimeError("a fault")]
    calls: list[str] = []
    done = asyncio.Event()

    async def failing() -> None:
        calls.append("failing")
        if outcomes:
            raise outcomes.pop()
        done.set()

    async def never() -> None:
        calls.append("never")

    async def scenario() -> None:
        tidying = Tidying(Chore("a", failing, 0.0, 0.0), Chore("b", never, 3600.0, 0.0))
        await tidying.start()
        await asyncio.wait_for(done.wait(), 60)
        await tidying.stop()
        count = len(calls)
        await asyncio.sleep(0)
        assert len(calls) == count

    asyncio.run(scenario())
    assert calls[:3] == ["failing"] * 3
    assert "never" not in calls
