"""Keeps this process in charge of its database, or on standby for the one that is."""

import asyncio

from salver.control.database import DatabaseThread
from salver.core.errors import SalverError
from salver.observe.logs import get_logger
from salver.registry.lease import Lease

log = get_logger(__name__)

RENEW_S = 3.0


class LeaseKeeper:
    """Component that renews the lease."""

    def __init__(self, lease: Lease, database: DatabaseThread) -> None:
        self._lease = lease
        self._database = database
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find out who is in charge, and go on doing so.

        Where the database has no room for that, this process is on standby until it has.
        """
        await self._try()
        self._task = asyncio.create_task(self._renew_for_ever())

    async def stop(self) -> None:
        """Renew no more; another takes over when it has seen that for a while."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self._try()

    async def _try(self) -> None:
        try:
            await self._renew()
        except SalverError as error:
            log.error("lease_not_renewed", code=error.code, cause=error.message)
        except Exception:  # a fault of ours must not end the loop
            log.exception("lease_not_renewed")

    async def _renew(self) -> None:
        before = self._lease.fence
        is_mine = await self._database(self._lease.renew)
        if is_mine and not before:
            log.info("in_charge", fence=self._lease.fence)
        elif not is_mine:
            log.warning("standby", in_charge=self._lease.other)
