"""What must fit into memory before an endpoint gets another version."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.control.rollouts.gates import Gates
from salver.core.clock import ManualClock
from salver.core.errors import MemoryBudgetExceeded
from salver.core.settings import EngineSettings
from salver.registry.catalog import Catalog
from salver.registry.database import Database
from salver.registry.lease import Lease
from salver.registry.records import EndpointSpec, VersionRecord
from salver.registry.rollouts import RolloutStore
from salver.registry.sides import SideStore
from tests.control.test_planner import version

SIZE_BYTES = 100
THREE = EngineSettings(memory_budget_bytes=3 * SIZE_BYTES)
TWO = EngineSettings(memory_budget_bytes=2 * SIZE_BYTES)
SPEC = EndpointSpec("e", "m", 2)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Give an open database with its tables."""
    database = Database(f"sqlite:///{tmp_path / 'salver.db'}")
    database.provision()
    yield database
    database.close()


@pytest.fixture
def versions(database: Database) -> list[VersionRecord]:
    """Give three versions of one model, each of the same size."""
    catalog = Catalog(database, ManualClock())
    made = [catalog.create_version("m", version(n).manifest, "me", {})[0] for n in (1, 2, 3)]
    catalog.save_sizes({each.id: SIZE_BYTES for each in made})
    return made


def gates(database: Database, engine: EngineSettings, keep_s: float) -> Gates:
    """Return the gates of an endpoint that has version 2 and had version 1 before."""
    clock = ManualClock()
    lease = Lease(database, "one", clock)
    assert lease.renew()
    store = RolloutStore(database, lease, clock)
    store.put(SPEC, EndpointSpec("e", "m", 1), keep_s)
    return Gates(Catalog(database, clock), store, SideStore(database, lease), engine)


def test_a_kept_version_of_the_endpoint_itself_counts_beside_others(
    database: Database, versions: list[VersionRecord]
) -> None:
    """A rollout or a shadow pins what was kept, the primary and the new version together."""
    _, old, new = versions
    small = gates(database, TWO, keep_s=60.0)
    with pytest.raises(MemoryBudgetExceeded, match="300 bytes"):
        small.check_version(SPEC, old, new, beside=True)
    gates(database, THREE, keep_s=60.0).check_version(SPEC, old, new, beside=True)


def test_a_deploy_replaces_what_was_kept(database: Database, versions: list[VersionRecord]) -> None:
    """The version before the last leaves when another takes the place of the last."""
    _, old, new = versions
    small = gates(database, TWO, keep_s=60.0)
    small.check_version(SPEC, old, new)
    assert small.fits(SPEC, old, new)


def test_a_rollout_back_to_what_was_kept_counts_it_once(
    database: Database, versions: list[VersionRecord]
) -> None:
    """One version takes its memory once, and none when its time is over."""
    kept, old, new = versions
    gates(database, TWO, keep_s=60.0).check_version(SPEC, old, kept, beside=True)
    gates(database, TWO, keep_s=0.0).check_version(SPEC, old, new, beside=True)
