"""Shadows and experiments in SQL; those that have ended stay, so that they can be looked at."""

from collections.abc import Callable

import msgspec
import sqlalchemy as sa

from salver.core.context import DEFAULT_TENANT
from salver.core.errors import SideActive, SideNotFound
from salver.core.sides import Side
from salver.registry.database import Database
from salver.registry.lease import Lease
from salver.registry.schema import sides


class SideStore:
    """Not thread-safe; control calls it from one thread. Writes raise ``Standby``."""

    def __init__(self, database: Database, lease: Lease, tenant: str = DEFAULT_TENANT) -> None:
        self._database = database
        self._lease = lease
        self._tenant = tenant

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
            self._lease.check(connection)
            newest = self._newest(connection, endpoint, kind)
            if newest is None or not newest.is_active:
                raise SideNotFound(f"no {kind} of endpoint {endpoint!r} goes on")
            side = msgspec.structs.replace(newest, last_epoch=last_epoch, ended_unix_ms=unix_ms)
            where = self._where(endpoint) & (sides.c.number == side.number)
            connection.execute(sa.update(sides).where(where).values(**self._row(side)))
        return side

    def active(self) -> dict[str, Side]:
        """Return what goes on, by endpoint."""
        with self._database.read() as connection:
            rows = connection.scalars(
                sa.select(sides.c.body).where(sides.c.tenant == self._tenant, sides.c.is_active)
            ).all()
        found = [msgspec.json.decode(row, type=Side) for row in rows]
        return {side.endpoint: side for side in found}

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

    def _row(self, side: Side) -> dict[str, object]:
        return {
            "tenant": self._tenant,
            "endpoint": side.endpoint,
            "number": side.number,
            "kind": side.kind,
            "is_active": side.is_active,
            "body": msgspec.json.encode(side).decode(),
        }
