"""Approvals are stored once for each person, on both databases."""

from pathlib import Path

import pytest

from salver.core.clock import ManualClock
from salver.core.errors import Conflict
from salver.registry.approvals import ApprovalStore
from salver.registry.catalog import Catalog
from salver.registry.database import Database
from salver.registry.lease import Lease
from tests.registry.helpers import manifest


def test_a_person_approves_once(database: Database, tmp_path: Path) -> None:
    """A second time is refused as such, and others may go on."""
    clock = ManualClock()
    lease = Lease(database, str(tmp_path), clock)
    lease.renew()
    version, _ = Catalog(database, clock).create_version("m", manifest(b"a"), "alice", {})
    store = ApprovalStore(database, lease, clock)
    store.add("e", version, "alice", "looks good")
    with pytest.raises(Conflict, match="alice approves of m:1 already"):
        store.add("e", version, "alice", "again")
    store.add("e", version, "bob", "")
    assert [found.person for found in store.of("e", version)] == ["alice", "bob"]
