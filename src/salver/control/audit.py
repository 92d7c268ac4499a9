"""The audit log: who changed what."""

from salver.control.database import DatabaseThread, in_batches
from salver.core.clock import Clock
from salver.registry.lease import Lease
from salver.registry.state import StateStore

_DAY_MS = 86_400_000
_MILLISECOND_NS = 1_000_000


class Audit:
    """Writes lines of the audit log."""

    def __init__(self, state: StateStore, database: DatabaseThread) -> None:
        self._state = state
        self._database = database

    async def __call__(self, action: str, subject: str, by: str, **details: str) -> None:
        """Append a line."""
        await self._database(lambda: self._state.record(by, action, subject, details))


class AuditTidier:
    """Forgets lines of the audit log that are older than ``max_age_days``; 0 or less keeps all.

    Only who is in charge does: another may have been given another age. Ages are counted from the
    newest line at most, so that a clock that is far ahead for a while does not empty the log.
    """

    def __init__(
        self,
        state: StateStore,
        database: DatabaseThread,
        lease: Lease,
        clock: Clock,
        max_age_days: float,
    ) -> None:
        self._state = state
        self._database = database
        self._lease = lease
        self._clock = clock
        self._max_age_ms = round(max_age_days * _DAY_MS)

    async def __call__(self) -> int:
        """Return how many went; raises what the database refuses with."""
        if self._max_age_ms <= 0 or not self._lease.fence:
            return 0
        newest = await self._database(lambda: self._state.events(limit=1))
        if not newest:
            return 0
        now_ms = min(self._clock.unix_ns() // _MILLISECOND_NS, newest[0].unix_ms)
        oldest = now_ms - self._max_age_ms
        return await in_batches(
            self._database, lambda most: self._state.forget_events(oldest, most)
        )
