"""Rollouts and what goes with them in SQL: histories, evidence, freezes, earlier states, marks.

A change of a rollout and all that follows from it are one transaction, written before anything is
done. Its number is a primary key, so nothing is written twice. Histories are only appended to.
"""

from collections.abc import Callable, Mapping

import msgspec
import sqlalchemy as sa

from salver.core.clock import Clock
from salver.core.context import DEFAULT_TENANT
from salver.core.errors import Conflict, PreviousNotFound, RolloutActive, RolloutNotFound
from salver.registry.database import Database, First, nothing
from salver.registry.lease import Lease
from salver.registry.records import (
    Ending,
    EndpointSpec,
    Freeze,
    PreviousState,
    RolloutEvent,
    RolloutRecord,
)
from salver.registry.schema import (
    approvals,
    freezes,
    previous_states,
    rolled_back_versions,
    rollout_events,
    rollout_evidence,
    rollouts,
)
from salver.registry.state import write_endpoint

_MILLISECOND_NS = 1_000_000
_MAX_EVENTS = 1000
_MAX_REASON = 1024
_MAX_ACTOR = 256

Body = tuple[bytes, bytes]
"""JSON of a rollout and of the event that made it so."""


class RolloutStore:
    """Not thread-safe; control calls it from one thread. Writes raise ``Standby``."""

    def __init__(
        self, database: Database, lease: Lease, clock: Clock, tenant: str = DEFAULT_TENANT
    ) -> None:
        self._database = database
        self._lease = lease
        self._clock = clock
        self._tenant = tenant

    @property
    def fence(self) -> int:
        """The number of the time for which this control is in charge, 0 while another is.

        As of when that was last looked at.
        """
        return self._lease.fence

    def begin(self, endpoint: str, make: Callable[[int], Body]) -> RolloutRecord:
        """Store a new rollout; ``make`` gets its number. Raises ``RolloutActive``."""
        with self._database.write() as connection:
            self._lease.check(connection)
            newest = self._newest(connection, endpoint)
            if newest is not None and newest.is_active:
                raise RolloutActive(
                    f"rollout {newest.number} of {endpoint!r} has not ended; see 'salver rollout "
                    f"status {endpoint}', or end it with 'salver rollout abort {endpoint}'"
                )
            number = 1 if newest is None else newest.number + 1
            body, event = make(number)
            key = self._key(endpoint, number)
            connection.execute(
                sa.insert(rollouts).values(**key, is_active=True, sequence=0, body=body.decode())
            )
            self._append(connection, key, 0, event)
        return RolloutRecord(endpoint, number, True, 0, body)

    def change(
        self,
        after: RolloutRecord,
        event: bytes,
        ending: Ending | None = None,
        also: First = nothing,
    ) -> None:
        """Store a rollout's next state with its event, and what its end changes.

        ``also`` writes what else belongs to it. Raises ``Conflict`` when it is not the one that
        follows what is stored.
        """
        key = self._key(after.endpoint, after.number)
        with self._database.write() as connection:
            self._lease.check(connection)
            self._update(connection, after, after.sequence - 1)
            self._append(connection, key, after.sequence, event)
            if not after.is_active:
                # What was concluded from it is in the history.
                connection.execute(sa.delete(rollout_evidence).filter_by(**key))
            if ending is not None:
                self._end(connection, after.endpoint, ending)
            also(connection)

    def append_within(
        self,
        connection: sa.Connection,
        endpoint: str,
        make: Callable[[RolloutRecord], tuple[RolloutRecord, bytes]],
    ) -> None:
        """Add to the history of an endpoint's newest rollout what came after its end.

        ``make`` gets it, and returns it as it is from then on, with the event. Nothing is added
        where there was no rollout. Raises ``Conflict`` for one that has not ended.
        """
        self._lease.check(connection)
        newest = self._newest(connection, endpoint)
        if newest is None:
            return
        after, event = make(newest)
        self._update(connection, after, newest.sequence, is_active=False)
        self._append(connection, self._key(endpoint, after.number), after.sequence, event)

    def save(self, record: RolloutRecord, evidence: Mapping[str, bytes]) -> None:
        """Store how far a rollout is, without an event, and what was counted for it, by name."""
        key = self._key(record.endpoint, record.number)
        with self._database.write() as connection:
            self._lease.check(connection)
            self._update(connection, record, record.sequence)
            for name, body in evidence.items():
                row = {**key, "name": name}
                connection.execute(sa.delete(rollout_evidence).filter_by(**row))
                connection.execute(sa.insert(rollout_evidence).values(**row, body=body.decode()))

    def active(self) -> list[RolloutRecord]:
        """Return every rollout that has not ended, by endpoint."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(rollouts)
                .where(rollouts.c.tenant == self._tenant, rollouts.c.is_active)
                .order_by(rollouts.c.endpoint)
            ).all()
        return [_record(row) for row in rows]

    def newest(self, endpoint: str) -> RolloutRecord:
        """Return an endpoint's newest rollout; raises ``RolloutNotFound``."""
        with self._database.read() as connection:
            record = self._newest(connection, endpoint)
        if record is None:
            raise RolloutNotFound(
                f"endpoint {endpoint!r} has had no rollout; start one with 'salver rollout start "
                f"{endpoint} --to VERSION'"
            )
        return record

    def history(self, endpoint: str, limit: int = _MAX_EVENTS) -> list[RolloutEvent]:
        """Return the newest events of an endpoint's rollouts, newest first."""
        columns = rollout_events.c
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(rollout_events)
                .where(columns.tenant == self._tenant, columns.endpoint == endpoint)
                .order_by(columns.number.desc(), columns.sequence.desc())
                .limit(min(limit, _MAX_EVENTS))
            ).all()
        return [RolloutEvent(r.number, r.sequence, r.unix_ms, r.body.encode()) for r in rows]

    def evidence(self, endpoint: str, number: int) -> dict[str, bytes]:
        """Return what was counted for a rollout, by name."""
        key = self._key(endpoint, number)
        with self._database.read() as connection:
            rows = connection.execute(sa.select(rollout_evidence).filter_by(**key)).all()
        return {row.name: row.body.encode() for row in rows}

    def freeze(self, endpoint: str, reason: str, actor: str) -> Freeze:
        """Let nothing change an endpoint; a second time replaces the reason."""
        with self._database.write() as connection:
            return self.freeze_within(connection, endpoint, reason, actor)

    def freeze_within(
        self, connection: sa.Connection, endpoint: str, reason: str, actor: str
    ) -> Freeze:
        """Do what ``freeze`` does within the transaction of another change."""
        self._lease.check(connection)
        frozen = Freeze(endpoint, reason[:_MAX_REASON], actor[:_MAX_ACTOR], self._now_ms())
        key = {"tenant": self._tenant, "endpoint": endpoint}
        connection.execute(sa.delete(freezes).filter_by(**key))
        values = {"reason": frozen.reason, "actor": frozen.actor, "unix_ms": frozen.unix_ms}
        connection.execute(sa.insert(freezes).values(**key, **values))
        return frozen

    def unfreeze(self, endpoint: str) -> bool:
        """Let an endpoint be changed again; tells whether it was frozen."""
        with self._database.write() as connection:
            self._lease.check(connection)
            gone = connection.execute(
                sa.delete(freezes).filter_by(tenant=self._tenant, endpoint=endpoint)
            )
            return gone.rowcount > 0

    def frozen(self) -> dict[str, Freeze]:
        """Return every frozen endpoint."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(freezes).filter_by(tenant=self._tenant)).all()
        return {r.endpoint: Freeze(r.endpoint, r.reason, r.actor, r.unix_ms) for r in rows}

    def mark_of(self, model: str, version: int) -> str:
        """Return why a version was rolled back, "" if it was not."""
        key = {"tenant": self._tenant, "model": model, "version": version}
        with self._database.read() as connection:
            row = connection.execute(sa.select(rolled_back_versions).filter_by(**key)).one_or_none()
        return "" if row is None else f"at endpoint {row.endpoint!r}: {row.reason}"

    def check(self, connection: sa.Connection) -> None:
        """Raise ``Standby`` within the transaction of another change."""
        self._lease.check(connection)

    def put(self, spec: EndpointSpec, previous: EndpointSpec | None, keep_s: float) -> EndpointSpec:
        """Want an endpoint, and remember what it was if that is given."""
        with self._database.write() as connection:
            return self.put_within(connection, spec, previous, keep_s)

    def put_within(
        self,
        connection: sa.Connection,
        spec: EndpointSpec,
        previous: EndpointSpec | None,
        keep_s: float,
    ) -> EndpointSpec:
        """Do what ``put`` does within the transaction of another change."""
        self._lease.check(connection)
        spec = write_endpoint(connection, self._tenant, spec)
        if previous is not None:
            self._remember(connection, previous, keep_s)
        return spec

    def restore(
        self, present: EndpointSpec, rolled_back: str, reason: str, also: First = nothing
    ) -> EndpointSpec:
        """Want an endpoint as it was before, and mark the version that it had.

        What changes of it demand, and who is told of them, stays as it is at present. Raises
        ``PreviousNotFound``.
        """
        endpoint = present.name
        with self._database.write() as connection:
            self._lease.check(connection)
            key = {"tenant": self._tenant, "endpoint": endpoint}
            row = connection.execute(sa.select(previous_states).filter_by(**key)).one_or_none()
            if row is None:
                raise PreviousNotFound(
                    f"endpoint {endpoint!r} has no earlier state; deploy the version you want with "
                    f"'salver deploy NAME:VERSION --endpoint {endpoint}'"
                )
            connection.execute(sa.delete(previous_states).filter_by(**key))
            spec = msgspec.structs.replace(
                msgspec.json.decode(row.spec, type=EndpointSpec),
                approvals=present.approvals,
                webhooks=present.webhooks,
            )
            spec = write_endpoint(connection, self._tenant, spec)
            if rolled_back:
                self._mark(connection, endpoint, rolled_back, reason)
            also(connection)
        return spec

    def previous(self) -> dict[str, PreviousState]:
        """Return the earlier state of every endpoint that has one."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(previous_states).filter_by(tenant=self._tenant)
            ).all()
        return {
            r.endpoint: PreviousState(
                msgspec.json.decode(r.spec, type=EndpointSpec), r.left_s, r.unix_ms
            )
            for r in rows
        }

    def save_left(self, left_s: Mapping[str, float]) -> None:
        """Store for how long earlier versions stay in memory, by endpoint."""
        with self._database.write() as connection:
            self._lease.check(connection)
            for endpoint, seconds in left_s.items():
                connection.execute(
                    sa.update(previous_states)
                    .filter_by(tenant=self._tenant, endpoint=endpoint)
                    .values(left_s=seconds)
                )

    def forget_within(self, connection: sa.Connection, endpoint: str) -> None:
        """Forget what is known of an endpoint that a transaction removes.

        That is its earlier state, its freeze, and who approves of versions for it.
        """
        self._lease.check(connection)
        key = {"tenant": self._tenant, "endpoint": endpoint}
        connection.execute(sa.delete(previous_states).filter_by(**key))
        connection.execute(sa.delete(freezes).filter_by(**key))
        connection.execute(sa.delete(approvals).filter_by(**key))

    def _end(self, connection: sa.Connection, endpoint: str, ending: Ending) -> None:
        if ending.spec is not None:
            write_endpoint(connection, self._tenant, ending.spec)
        if ending.previous is not None:
            self._remember(connection, ending.previous, ending.keep_s)
        if ending.rolled_back:
            self._mark(connection, endpoint, ending.rolled_back, ending.reason)

    def _remember(self, connection: sa.Connection, spec: EndpointSpec, keep_s: float) -> None:
        key = {"tenant": self._tenant, "endpoint": spec.name}
        connection.execute(sa.delete(previous_states).filter_by(**key))
        body = msgspec.json.encode(spec).decode()
        connection.execute(
            sa.insert(previous_states).values(
                **key, spec=body, left_s=keep_s, unix_ms=self._now_ms()
            )
        )

    def _mark(self, connection: sa.Connection, endpoint: str, variant: str, reason: str) -> None:
        """Mark a version that was left; that people approved of it counts no more."""
        model, _, version = variant.rpartition(":")
        key = {"tenant": self._tenant, "model": model, "version": int(version)}
        given = {"tenant": self._tenant, "endpoint": endpoint, "version": variant}
        connection.execute(sa.delete(approvals).filter_by(**given))
        connection.execute(sa.delete(rolled_back_versions).filter_by(**key))
        connection.execute(
            sa.insert(rolled_back_versions).values(
                **key, endpoint=endpoint, reason=reason, unix_ms=self._now_ms()
            )
        )

    def _update(
        self,
        connection: sa.Connection,
        record: RolloutRecord,
        stored: int,
        *,
        is_active: bool = True,
    ) -> None:
        key = self._key(record.endpoint, record.number)
        done = connection.execute(
            sa.update(rollouts)
            .filter_by(**key, sequence=stored, is_active=is_active)
            .values(sequence=record.sequence, is_active=record.is_active, body=record.body.decode())
        )
        if done.rowcount == 0:
            raise Conflict(
                f"rollout {record.number} of {record.endpoint!r} has changed meanwhile; look again "
                f"with 'salver rollout status {record.endpoint}'"
            )

    def _append(
        self, connection: sa.Connection, key: dict[str, object], sequence: int, event: bytes
    ) -> None:
        connection.execute(
            sa.insert(rollout_events).values(
                **key, sequence=sequence, unix_ms=self._now_ms(), body=event.decode()
            )
        )

    def _newest(self, connection: sa.Connection, endpoint: str) -> RolloutRecord | None:
        row = connection.execute(
            sa.select(rollouts)
            .where(rollouts.c.tenant == self._tenant, rollouts.c.endpoint == endpoint)
            .order_by(rollouts.c.number.desc())
            .limit(1)
        ).one_or_none()
        return None if row is None else _record(row)

    def _key(self, endpoint: str, number: int) -> dict[str, object]:
        return {"tenant": self._tenant, "endpoint": endpoint, "number": number}

    def _now_ms(self) -> int:
        return self._clock.unix_ns() // _MILLISECOND_NS


def _record(row: sa.Row[tuple[object, ...]]) -> RolloutRecord:
    return RolloutRecord(
        row.endpoint, row.number, bool(row.is_active), row.sequence, row.body.encode()
    )
