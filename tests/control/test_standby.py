"""Two controls on one database: the second does not act."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from salver.artifact.manifest import FileEntry
from salver.control.audit import Audit
from salver.control.database import DatabaseThread
from salver.control.push import Push, Pushed, Pusher
from salver.core.clock import ManualClock
from salver.core.errors import DigestMismatch, SalverError, Standby
from salver.core.settings import Settings
from salver.engine.materialize import materialize
from salver.registry.blobs import BlobStore
from salver.registry.catalog import Catalog
from salver.registry.database import Database
from salver.registry.lease import Lease
from salver.registry.state import StateStore
from salver.wire.messages import FileRef
from tests import models
from tests.e2e.server import Server, wait_until


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Give two servers whose controls share one database, and one store of models.

    Without the models the second, once in charge, would find that the canary cannot be loaded.
    """
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    homes = []
    for name in ("first", "second"):
        home = tmp_path / name
        home.mkdir()
        (home / "salver.yaml").write_text(f"control: {{database_url: '{url}'}}\n")
        (home / "blobs").symlink_to(blobs)
        homes.append(home)
    with Server(homes[0]) as first:
        first.push_scaled(tmp_path, 2)
        first.push_scaled(tmp_path, 3)
        first.ok("deploy", "scaled:1", "--endpoint", "scaled")
        with Server(homes[1]) as second:
            yield first, second


def test_a_second_control_waits_until_the_first_is_gone(pair: tuple[Server, Server]) -> None:
    """It refuses changes, drives no rollout, and takes over when the first has stood still."""
    first, second = pair
    with second.client() as client:
        changes: list[Callable[[], object]] = [
            lambda: client.start_rollout("scaled", 2),
            lambda: client.deploy("scaled:2", endpoint="scaled", timeout_s=5),
            lambda: client.freeze("scaled"),
        ]
        for change in changes:
            with pytest.raises(SalverError) as refusal:
                change()
            assert refusal.value.code in (Standby.code, "not_ready"), refusal.value.message
    first.ok("rollout", "start", "scaled", "--to", "2", "--min-requests", "1000000")
    with first.client() as client:
        wait_until(lambda: client.rollout("scaled")["step"] == 1, "the first step")
        events = len(client.rollout_history("scaled"))
    assert events == 2
    pid = first.supervisor_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    def acts() -> bool:
        try:
            with second.client() as client:
                client.freeze("scaled", "drill")
        except Standby:
            return False
        return True

    wait_until(acts, "the second is in charge", 60)
    with second.client() as client:
        history = client.rollout_history("scaled")
    assert [event["event"] for event in reversed(history)] == ["start", "step", "pause"]


def pusher_of(
    home: Path, lease: Lease, catalog: Catalog, parts: tuple[Database, DatabaseThread]
) -> Pusher:
    """Return what takes the pushes of a home that has a folder of models of its own."""
    database, thread = parts
    blobs = BlobStore(home)
    blobs.provision()

    async def move(model: str, alias: str, version: int, *, by: str) -> None:
        raise AssertionError((model, alias, version, by))

    audit = Audit(StateStore(database, ManualClock()), thread)
    return Pusher(blobs, catalog, thread, Settings(), move, audit, lease)


def test_who_pushes_to_a_standby_is_told_where_the_bytes_are(tmp_path: Path) -> None:
    """The version is in both databases; a worker of the other home names the cause and the fix.

    Pushed to the control in charge as well, its bytes are there, and nothing is to be told.
    """
    database, thread = Database(f"sqlite:///{tmp_path / 'salver.db'}"), DatabaseThread()
    database.provision()
    catalog = Catalog(database, ManualClock())
    leases = [Lease(database, name, ManualClock()) for name in ("first", "second")]
    assert [lease.renew() for lease in leases] == [True, False]
    content = models.onnx_identity("FP32", 2).read_bytes()

    def pushed(index: int) -> Pushed:
        home = tmp_path / str(index)
        pusher = pusher_of(home, leases[index], catalog, (database, thread))
        file = FileEntry("model.onnx", BlobStore(home).put(content), len(content))
        return asyncio.run(pusher(Push("m", (file,))))

    def load() -> None:
        files = tuple(FileRef(f.path, f.sha256, f.size_bytes) for f in record.manifest.files)
        materialize(files, tmp_path / "0", tmp_path / "copy")

    (tmp_path / "0").mkdir()
    found = pushed(1)
    record = found.record
    assert "on standby for 'first'" in found.warnings[-1]
    assert "pushed there too" in found.warnings[-1]
    with pytest.raises(DigestMismatch, match="share one folder of models"):
        load()
    again = pushed(0)
    assert again.record.id == record.id
    assert not any("standby" in warning for warning in again.warnings)
    load()
    thread.stop()
    database.close()
