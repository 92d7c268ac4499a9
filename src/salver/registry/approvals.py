"""Who approves of which version for an endpoint, by the digest of its bytes."""

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from salver.core.clock import Clock
from salver.core.context import DEFAULT_TENANT
from salver.core.errors import Conflict
from salver.registry.database import Database
from salver.registry.lease import Lease
from salver.registry.records import Approval, VersionRecord
from salver.registry.schema import approvals as table

_MILLISECOND_NS = 1_000_000
_MAX_COMMENT = 1024


class ApprovalStore:
    """Not thread-safe; control calls it from one thread. Writes raise ``Standby``."""

    def __init__(
        self, database: Database, lease: Lease, clock: Clock, tenant: str = DEFAULT_TENANT
    ) -> None:
        self._database = database
        self._lease = lease
        self._clock = clock
        self._tenant = tenant

    def of(self, endpoint: str, version: VersionRecord) -> list[Approval]:
        """Return who approves of a version, in the order in which they did."""
        key = {"endpoint": endpoint, "digest": version.digest}
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(table)
                .filter_by(tenant=self._tenant, **key)
                .order_by(table.c.unix_ms, table.c.person)
            ).all()
        return [Approval(row.person, row.version, row.comment, row.unix_ms) for row in rows]

    def add(self, endpoint: str, version: VersionRecord, person: str, comment: str) -> None:
        """Store that somebody approves; raises ``Conflict`` when they did already."""
        row = {
            "tenant": self._tenant,
            "endpoint": endpoint,
            "digest": version.digest,
            "person": person,
            "version": version.id,
            "comment": comment[:_MAX_COMMENT],
            "unix_ms": self._clock.unix_ns() // _MILLISECOND_NS,
        }
        with self._database.write() as connection:
            self._lease.check(connection)
            try:
                connection.execute(sa.insert(table).values(**row))
            except IntegrityError as error:
                raise Conflict(f"{person} approves of {version.id} already") from error
