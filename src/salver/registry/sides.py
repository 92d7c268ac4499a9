"""Shadows and experiments in SQL; those that have ended stay, so that they can be looked at."""

from collections.abc import Callable, Mapping

import msgspec
import sqlalchemy as sa

from salver.core.context import DEFAULT_TENANT
from salver.core.errors import Conflict, SideActive, SideNotFound
from salver.core.sides import EXPERIMENT, Side
from salver.registry.database import Database
from salver.registry.lease import Lease
from salver.registry.schema import side_covariates, side_events, side_evidence, sides

_MAX_EVENTS = 1000


class SideStore:
    """Not thread-safe; control calls it from one thread. Writes raise ``Standby``."""

    def __init__(self, database: Database, lease: Lease, tenant: str = DEFAULT_TENANT) -> None:
        self._database = database
        self._lease = lease
        self._tenant = tenant

    @property
    def fence(self) -> int:
        """Return the number under which this control is in charge, 0 for one that is not."""
        return self._lease.fence

    def begin(self, endpoint: str, make: Callable[[int], Side]) -> Side:
        """Store a new one; ``make`` gets its number. Raises ``SideActive``."""
        with self._database.write() as connection:
            self._lease.check(connection)
            newest = self._newest(connection, endpoint, "")
            if newest is not None and newest.is_active:
                raise SideActive(
                    f"{newest.kind} {newest.number} of endpoint {endpoint!r} goes on; end it with "
                    f"'salver {newest.kind} stop {endpoint}'"
                )
            side = make(1 if newest is None else newest.number + 1)
            connection.execute(sa.insert(sides).values(**self._row(side)))
        return side

    def end(self, endpoint: str, kind: str, last_epoch: int, unix_ms: int) -> Side:
        """End the one that goes on; raises ``SideNotFound``."""
        with self._database.write() as connection:
            side = self.end_within(connection, endpoint, kind, last_epoch, unix_ms)
            if side is None:
                raise SideNotFound(f"no {kind} of endpoint {endpoint!r} goes on")
        return side

    def end_within(
        self, connection: sa.Connection, endpoint: str, kind: str, last_epoch: int, unix_ms: int
    ) -> Side | None:
        """End what goes on, of any kind for ``""``, within a transaction; None for nothing."""
        self._lease.check(connection)
        newest = self._newest(connection, endpoint, kind)
        if newest is None or not newest.is_active:
            return None
        side = msgspec.structs.replace(newest, last_epoch=last_epoch, ended_unix_ms=unix_ms)
        where = self._where(endpoint) & (sides.c.number == side.number)
        connection.execute(sa.update(sides).where(where).values(**self._row(side)))
        return side

    def change(self, side: Side, event: bytes, unix_ms: int) -> None:
        """Store a change of weights and why; raises ``Conflict`` where another came before."""
        key = self._key(side)
        with self._database.write() as connection:
            self._lease.check(connection)
            newest = self._newest(connection, side.endpoint, side.kind)
            before = msgspec.structs.replace(side, arms=(), changes=side.changes - 1)
            if newest is None or msgspec.structs.replace(newest, arms=()) != before:
                raise Conflict(f"{side.kind} {side.number} of {side.endpoint!r} has changed")
            values = self._row(side)
            connection.execute(sa.update(sides).filter_by(**key).values(**values))
            line = {"sequence": side.changes, "unix_ms": unix_ms, "body": event.decode()}
            connection.execute(sa.insert(side_events).values(**key, **line))

    def history(self, side: Side) -> list[tuple[int, int, bytes]]:
        """Return number, time and body of the newest changes of weights, newest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(side_events)
                .filter_by(**self._key(side))
                .order_by(side_events.c.sequence.desc())
                .limit(_MAX_EVENTS)
            ).all()
        return [(row.sequence, row.unix_ms, row.body.encode()) for row in rows]

    def save(self, side: Side, evidence: Mapping[str, bytes]) -> None:
        """Store what was counted, by name."""
        with self._database.write() as connection:
            self._lease.check(connection)
            for name, body in evidence.items():
                row = {**self._key(side), "name": name}
                connection.execute(sa.delete(side_evidence).filter_by(**row))
                connection.execute(sa.insert(side_evidence).values(**row, body=body.decode()))

    def evidence(self, side: Side) -> dict[str, bytes]:
        """Return what was counted, by name."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(side_evidence).filter_by(**self._key(side))).all()
        return {row.name: row.body.encode() for row in rows}

    def add_covariate(
        self, side: Side, added: Mapping[int, tuple[int, float]], *, replaces: bool
    ) -> None:
        """Add callers and the sum of what was known of them, by place; or begin anew with these."""
        key, table = self._key(side), side_covariates
        with self._database.write() as connection:
            self._lease.check(connection)
            if replaces:
                connection.execute(sa.delete(table).filter_by(**key))
            known = {
                row.place: row
                for row in connection.execute(sa.select(table).filter_by(**key)).all()
            }
            for place, (callers, total) in added.items():
                where = {**key, "place": place}
                if place in known:
                    more = {
                        "callers": known[place].callers + callers,
                        "total": known[place].total + total,
                    }
                    connection.execute(sa.update(table).filter_by(**where).values(**more))
                else:
                    row = {**where, "callers": callers, "total": total}
                    connection.execute(sa.insert(table).values(**row))

    def covariate(self, side: Side) -> dict[int, tuple[int, float]]:
        """Return callers and the sum of what was known of them, by place."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(side_covariates).filter_by(**self._key(side))).all()
        return {row.place: (row.callers, row.total) for row in rows}

    def active(self) -> dict[str, Side]:
        """Return what goes on, by endpoint."""
        with self._database.read() as connection:
            rows = connection.scalars(
                sa.select(sides.c.body).where(sides.c.tenant == self._tenant, sides.c.is_active)
            ).all()
        found = [msgspec.json.decode(row, type=Side) for row in rows]
        return {side.endpoint: side for side in found}

    def experiments(self) -> list[Side]:
        """Return all experiments, ended ones too."""
        with self._database.read() as connection:
            rows = connection.scalars(
                sa.select(sides.c.body).where(
                    sides.c.tenant == self._tenant, sides.c.kind == EXPERIMENT
                )
            ).all()
        return [msgspec.json.decode(row, type=Side) for row in rows]

    def newest(self, endpoint: str, kind: str) -> Side:
        """Return an endpoint's newest of a kind; raises ``SideNotFound``."""
        with self._database.read() as connection:
            side = self._newest(connection, endpoint, kind)
        if side is None:
            raise SideNotFound(
                f"endpoint {endpoint!r} has had no {kind}; see 'salver {kind} start --help'"
            )
        return side

    def _newest(self, connection: sa.Connection, endpoint: str, kind: str) -> Side | None:
        where = self._where(endpoint)
        if kind:
            where &= sides.c.kind == kind
        row = connection.scalar(
            sa.select(sides.c.body).where(where).order_by(sides.c.number.desc()).limit(1)
        )
        return None if row is None else msgspec.json.decode(row, type=Side)

    def _where(self, endpoint: str) -> sa.ColumnElement[bool]:
        return (sides.c.tenant == self._tenant) & (sides.c.endpoint == endpoint)

    def _key(self, side: Side) -> dict[str, object]:
        return {"tenant": self._tenant, "endpoint": side.endpoint, "number": side.number}

    def _row(self, side: Side) -> dict[str, object]:
        return {
            "tenant": self._tenant,
            "endpoint": side.endpoint,
            "number": side.number,
            "kind": side.kind,
            "is_active": side.is_active,
            "body": msgspec.json.encode(side).decode(),
        }
