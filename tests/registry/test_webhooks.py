"""Deliveries and approvals are stored in both databases as they are meant."""

import msgspec
import pytest

from salver.core.clock import ManualClock
from salver.core.errors import Conflict, Standby
from salver.core.webhooks import BEFORE_STEP, WHEN_PAUSED, Webhook
from salver.registry.approvals import ApprovalStore
from salver.registry.database import Database
from salver.registry.lease import Lease
from salver.registry.records import Delivery, VersionRecord
from salver.registry.webhooks import DELIVERED, UNDELIVERED, WAITING, WITHDRAWN, DeliveryStore
from tests.registry.helpers import manifest

HOOK = Webhook("desk", "https://desk.example/", (BEFORE_STEP, WHEN_PAUSED))
VERSION = VersionRecord("m", 1, "d" * 64, manifest(b"1"), 0, "alice", {})
ROOM = 3


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock."""
    return ManualClock()


@pytest.fixture
def lease(database: Database, clock: ManualClock) -> Lease:
    """Give the lease of the control that is in charge."""
    lease = Lease(database, "one", clock)
    assert lease.renew()
    return lease


@pytest.fixture
def store(database: Database, lease: Lease, clock: ManualClock) -> DeliveryStore:
    """Give an empty store with room for three."""
    return DeliveryStore(database, lease, clock, ROOM)


@pytest.fixture
def approvals(database: Database, lease: Lease, clock: ManualClock) -> ApprovalStore:
    """Give an empty store of approvals."""
    return ApprovalStore(database, lease, clock)


def delivery(name: str, sequence: int = 1, event: str = WHEN_PAUSED) -> Delivery:
    """Return what a webhook is told of a rollout's event."""
    return Delivery(name, "e", 1, sequence, event, HOOK, b'{"reason":"sp\xc3\xa4t"}')


def add(database: Database, store: DeliveryStore, *items: Delivery) -> None:
    """Write down what is to be told."""
    with database.write() as connection:
        store.add_within(connection, items)


def test_a_delivery_comes_back_as_it_was(database: Database, store: DeliveryStore) -> None:
    """Byte for byte, questions first, and it ends once."""
    add(database, store, delivery("a"), delivery("b", 2, BEFORE_STEP))
    second, first = store.waiting()
    assert (first.id, second.id) == ("a", "b")
    assert msgspec.structs.replace(first, unix_ms=0) == delivery("a")
    ended = msgspec.structs.replace(
        first, state=DELIVERED, attempts=2, spent_s=1.5, status=204, reason="x" * 2_000
    )
    assert store.save(ended)
    assert not store.save(ended)
    (known,) = store.of_event("e", 1, 1)
    assert (known.state, known.attempts, known.spent_s, known.status) == (DELIVERED, 2, 1.5, 204)
    assert known.reason == "x" * 1_024
    assert [item.id for item in store.newest("e", 10, 1)] == ["a", "b"]
    assert store.newest("e", 10, 2) == []


def test_what_is_too_much_and_what_nobody_asks_any_more(
    database: Database, store: DeliveryStore, clock: ManualClock
) -> None:
    """The fourth is not delivered; questions are withdrawn; what waits is never forgotten."""
    add(database, store, *(delivery(f"{n}", n, BEFORE_STEP) for n in range(ROOM)), delivery("z", 9))
    with database.write() as connection:
        store.withdraw_within(connection, "e", 1, 2)
    states = {item.id: item.state for item in store.newest("e", 10)}
    assert states == {"0": WITHDRAWN, "1": WITHDRAWN, "2": WAITING, "z": UNDELIVERED}
    clock.advance(2 * 86_400.0)
    store.forget_old(1.0)
    assert [item.id for item in store.newest("e", 10)] == ["2"]


def test_an_approval_counts_once(approvals: ApprovalStore, clock: ManualClock) -> None:
    """For one endpoint and the bytes of one version; the store goes on after a refusal."""
    approvals.add("e", VERSION, "bob", "checked" + "x" * 2_000)
    with pytest.raises(Conflict, match="already"):
        approvals.add("e", VERSION, "bob", "")
    clock.advance(1.0)
    approvals.add("e", VERSION, "alice", "geprüft")
    assert [each.person for each in approvals.of("e", VERSION)] == ["bob", "alice"]
    first, second = approvals.of("e", VERSION)
    assert (len(first.comment), second.comment) == (1_024, "geprüft")
    assert approvals.of("f", VERSION) == []
    assert approvals.of("e", msgspec.structs.replace(VERSION, digest="e" * 64)) == []


def test_a_control_on_standby_writes_neither(database: Database, clock: ManualClock) -> None:
    """Whoever is in charge does."""
    assert Lease(database, "one", clock).renew()
    other = Lease(database, "two", clock)
    assert not other.renew()
    with pytest.raises(Standby):
        ApprovalStore(database, other, clock).add("e", VERSION, "bob", "")
    with pytest.raises(Standby):
        DeliveryStore(database, other, clock, ROOM).save(delivery("a"))
