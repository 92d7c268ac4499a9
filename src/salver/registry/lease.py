"""Who is in charge of a database: one control process, whatever their clocks say.

Whoever is in charge counts its renewals up. Another sees by its own clock for how long they have
not moved, so that clocks need not agree. Taking over raises the fence, a number that every write
of rollouts checks in its own transaction: one that was taken over can finish nothing.
"""

import sqlalchemy as sa

from salver.core.clock import Clock
from salver.core.errors import Standby
from salver.registry.database import Database
from salver.registry.schema import leases

_NAME = "control"
STALE_S = 15.0


class Lease:
    """One process's part in it. Not thread-safe; control calls it from one thread.

    ``holder`` stays the same across restarts of a server, so that a restarted control goes on at
    once. ``fence`` is 0 while another is in charge.
    """

    def __init__(
        self, database: Database, holder: str, clock: Clock, stale_s: float = STALE_S
    ) -> None:
        self._database = database
        self._holder = holder
        self._clock = clock
        self._stale_s = stale_s
        self._seen: tuple[int, int] | None = None
        self._seen_ns = 0
        self._has_begun = False
        self.fence = 0
        self.other = ""

    def renew(self) -> bool:
        """Stay in charge, or take over from one that is gone; tells whether it is."""
        with self._database.write() as connection:
            row = connection.execute(sa.select(leases).where(leases.c.name == _NAME)).one_or_none()
            if row is None:
                connection.execute(
                    sa.insert(leases).values(name=_NAME, holder=self._holder, fence=1, renewals=1)
                )
                self.fence = 1
            elif self._is_mine(row):
                _write(connection, {"renewals": row.renewals + 1})
            elif self._may_take(row):
                self.fence = row.fence + 1
                _write(
                    connection,
                    {"holder": self._holder, "fence": self.fence, "renewals": row.renewals + 1},
                )
            else:
                self.fence, self.other = 0, row.holder
        self._has_begun = True
        return self.fence > 0

    def check(self, connection: sa.Connection) -> None:
        """Raise ``Standby`` unless this process is in charge, as of this transaction."""
        row = connection.execute(sa.select(leases).where(leases.c.name == _NAME)).one_or_none()
        if row is None or not self._is_mine(row):
            self.fence = 0
            other = row.holder if row is not None else "nobody yet"
            if other == self._holder:
                raise Standby(
                    "this control has not been able to take charge of its database since it was "
                    "started; its log says why",
                    retry_after_s=1.0,
                )
            raise Standby(
                f"another control with this database is in charge ({other}); ask that one, or "
                f"stop it and wait {self._stale_s:g} s",
                retry_after_s=1.0,
            )

    def _is_mine(self, row: sa.Row[tuple[object, ...]]) -> bool:
        return bool(self.fence and row.holder == self._holder and row.fence == self.fence)

    def _may_take(self, row: sa.Row[tuple[object, ...]]) -> bool:
        """Tell whether the other is gone: it was this server's own, or has not moved for long."""
        if row.holder == self._holder and not self._has_begun:
            return True
        state = (row.fence, row.renewals)
        now_ns = self._clock.monotonic_ns()
        if state != self._seen:
            self._seen, self._seen_ns = state, now_ns
        return now_ns - self._seen_ns >= self._stale_s * 1e9


def _write(connection: sa.Connection, values: dict[str, object]) -> None:
    connection.execute(sa.update(leases).where(leases.c.name == _NAME).values(values))
