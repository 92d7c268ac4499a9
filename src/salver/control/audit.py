"""The audit log: who changed what."""

from salver.control.database import DatabaseThread
from salver.registry.state import StateStore


class Audit:
    """Writes lines of the audit log."""

    def __init__(self, state: StateStore, database: DatabaseThread) -> None:
        self._state = state
        self._database = database

    async def __call__(self, action: str, subject: str, by: str, **details: str) -> None:
        """Append a line."""
        await self._database(lambda: self._state.record(by, action, subject, details))
