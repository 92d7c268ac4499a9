"""What is stored of rollouts is stored once, in order, and by one control only."""

import pytest

from salver.core.clock import ManualClock
from salver.core.errors import Conflict, PreviousNotFound, RolloutActive, RolloutNotFound, Standby
from salver.registry.database import Database
from salver.registry.lease import STALE_S, Lease
from salver.registry.records import Ending, EndpointSpec, RolloutRecord
from salver.registry.rollouts import RolloutStore
from salver.registry.state import StateStore

OLD, NEW = EndpointSpec("e", "m", 1), EndpointSpec("e", "m", 2)


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
def store(database: Database, lease: Lease, clock: ManualClock) -> RolloutStore:
    """Give an empty store."""
    return RolloutStore(database, lease, clock)


def begin(store: RolloutStore, endpoint: str = "e") -> RolloutRecord:
    """Store a rollout."""
    return store.begin(endpoint, lambda number: (b'{"n":%d}' % number, b'"start"'))


def test_a_rollout_has_one_history(store: RolloutStore) -> None:
    """Every state replaces the one before, every event stays, and stale ones are refused."""
    first = begin(store)
    assert store.active() == [first] == [store.newest("e")]
    second = RolloutRecord("e", 1, True, 1, b'"second"')
    store.change(second, b'"step"')
    for stale in (second, RolloutRecord("e", 1, True, 3, b'"x"')):
        with pytest.raises(Conflict):
            store.change(stale, b'"again"')
    with pytest.raises(Conflict):
        store.save(first, {})
    assert [(event.sequence, event.body) for event in store.history("e")] == [
        (1, b'"step"'),
        (0, b'"start"'),
    ]
    assert store.history("other") == []
    with pytest.raises(RolloutNotFound):
        store.newest("other")


def test_an_endpoint_has_one_rollout_at_a_time(store: RolloutStore) -> None:
    """The next can begin when the one before has ended, which is final."""
    begin(store)
    begin(store, "f")
    with pytest.raises(RolloutActive, match="rollout 1"):
        begin(store)
    store.change(RolloutRecord("e", 1, False, 1, b'"over"'), b'"promote"')
    with pytest.raises(Conflict):
        store.change(RolloutRecord("e", 1, True, 2, b'"zombie"'), b'"step"')
    assert begin(store).number == 2
    assert [record.endpoint for record in store.active()] == ["e", "f"]


def test_the_end_changes_everything_or_nothing(
    store: RolloutStore, database: Database, clock: ManualClock
) -> None:
    """Endpoint, earlier state and mark are written with the event, and not when that fails."""
    state = StateStore(database, clock)
    state.put_endpoint(OLD)
    begin(store)
    ending = Ending(NEW, OLD, 60.0, "m:2", "slow")
    with pytest.raises(Conflict):
        store.change(RolloutRecord("e", 1, False, 7, b'"x"'), b'"x"', ending)
    assert state.endpoints()[0].version == 1
    assert store.previous() == {}
    store.change(RolloutRecord("e", 1, False, 1, b'"x"'), b'"x"', ending)
    assert state.endpoints()[0].version == 2
    assert store.previous()["e"].spec == OLD
    assert "slow" in store.mark_of("m", 2)
    assert store.mark_of("m", 1) == ""


def test_an_earlier_state_comes_back_once(store: RolloutStore, database: Database) -> None:
    """Going back marks what was left, and there is nothing further back."""
    store.put(OLD, None, 0.0)
    new = store.put(NEW, OLD, 60.0)
    store.save_left({"e": 30.0, "unknown": 1.0})
    assert store.previous()["e"].left_s == 30.0
    restored = store.restore(new, "m:2", "wrong")
    assert (restored.version, restored.generation > new.generation) == (1, True)
    assert "wrong" in store.mark_of("m", 2)
    with pytest.raises(PreviousNotFound, match="salver deploy"):
        store.restore(restored, "m:1", "")
    assert store.mark_of("m", 1) == ""


def test_evidence_is_replaced_with_how_far_a_rollout_is(store: RolloutStore) -> None:
    """The newest count under a name stands for all before it."""
    record = begin(store)
    store.save(record, {"4": b"[1]", "5": b"[2]"})
    store.save(RolloutRecord("e", 1, True, 0, b'"later"'), {"5": b"[3]"})
    assert store.evidence("e", 1) == {"4": b"[1]", "5": b"[3]"}
    assert store.newest("e").body == b'"later"'
    assert len(store.history("e")) == 1
    store.change(RolloutRecord("e", 1, False, 1, b'"over"'), b'"promote"')
    assert store.evidence("e", 1) == {}


def test_endpoints_are_frozen_with_a_reason(
    store: RolloutStore, database: Database, clock: ManualClock
) -> None:
    """A freeze names who and why, is replaced by another, and ends."""
    store.freeze("e", "outage", "alice")
    frozen = store.freeze("e", "x" * 5000, "bob")
    assert store.frozen() == {"e": frozen}
    assert len(frozen.reason) == 1024
    assert store.unfreeze("e")
    assert not store.unfreeze("e")
    store.put(NEW, OLD, 60.0)
    store.freeze("e", "outage", "alice")
    StateStore(database, clock).delete_endpoint("e", lambda c: store.forget_within(c, "e"))
    assert (store.frozen(), store.previous()) == ({}, {})


def test_a_second_control_does_not_act(
    database: Database, lease: Lease, clock: ManualClock
) -> None:
    """It can read; every write is refused, and it takes over only from one that stands still."""
    other = Lease(database, "two", clock)
    second = RolloutStore(database, other, clock)
    assert not other.renew()
    for write in (
        lambda: begin(second),
        lambda: second.put(NEW, None, 0),
        lambda: second.freeze("e", "", ""),
        lambda: second.change(RolloutRecord("e", 1, True, 1, b""), b""),
    ):
        with pytest.raises(Standby, match="one"):
            write()
    assert second.active() == []
    for _ in range(10):
        clock.advance(STALE_S - 1)
        assert lease.renew()
        assert not other.renew()
    clock.advance(STALE_S)
    assert other.renew()
    begin(second)
    first = RolloutStore(database, lease, clock)
    with pytest.raises(Standby, match="two"):
        first.change(RolloutRecord("e", 1, True, 1, b"x"), b"x")
    assert not lease.renew()


def test_a_restarted_control_goes_on_at_once(
    database: Database, lease: Lease, clock: ManualClock
) -> None:
    """The same server's next control need not wait, and what is left of the last one is fenced."""
    again = Lease(database, "one", clock)
    assert again.renew()
    assert again.fence == lease.fence + 1
    assert not lease.renew()
    assert again.renew()


def test_what_comes_after_the_end_is_added_to_the_newest_history(
    store: RolloutStore, database: Database
) -> None:
    """Once the rollout has ended, and nowhere for an endpoint that had none."""

    def add(endpoint: str) -> None:
        with database.write() as connection:
            store.append_within(
                connection,
                endpoint,
                lambda old: (RolloutRecord("e", old.number, False, 2, b'"left"'), b'"back"'),
            )

    add("other")
    begin(store)
    with pytest.raises(Conflict):
        add("e")
    store.change(RolloutRecord("e", 1, False, 1, b'"ended"'), b'"end"')
    add("e")
    assert store.newest("e") == RolloutRecord("e", 1, False, 2, b'"left"')
    assert [event.body for event in store.history("e")] == [b'"back"', b'"end"', b'"start"']
    assert store.history("other") == []
