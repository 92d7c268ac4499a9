"""What control does now and then, so that nothing grows for ever."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from salver.control.database import DatabaseThread
from salver.core.clock import Clock
from salver.core.errors import SalverError
from salver.observe.logs import get_logger
from salver.registry.blobs import BlobStore
from salver.registry.catalog import Catalog
from salver.registry.unneeded import collect

log = get_logger(__name__)

GRACE_S = 3 * 86_400.0


class Chore(NamedTuple):
    """Work that is done ``first_s`` after the start and each ``pause_s`` later."""

    name: str
    work: Callable[[], Awaitable[object]]
    first_s: float
    pause_s: float


class Tidying:
    """Component that does chores, each at its own pace, for as long as it runs."""

    def __init__(self, *chores: Chore) -> None:
        self._chores = chores
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(_again_and_again(chore)) for chore in self._chores]

    async def stop(self) -> None:
        """Begin nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _again_and_again(chore: Chore) -> None:
    pause_s = chore.first_s
    while True:
        await asyncio.sleep(pause_s)
        try:
            await chore.work()
        except SalverError as error:
            log.warning("not_tidied", chore=chore.name, code=error.code, cause=error.message)
        except Exception:  # a fault of ours must not end the loop
            log.exception("not_tidied", chore=chore.name)
        pause_s = chore.pause_s


class BlobTidier:
    """Removes the blobs of this home that no version in the database needs.

    Whoever is in charge: a control on standby takes pushes too, into a folder that may be its own.
    """

    def __init__(
        self, blobs: BlobStore, catalog: Catalog, database: DatabaseThread, clock: Clock
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._database = database
        self._clock = clock

    async def drop_leftovers(self) -> None:
        """Remove what interrupted uploads left, an hour after their last byte."""
        await asyncio.to_thread(self._blobs.drop_leftovers, self._clock.unix_ns() / 1e9)

    async def __call__(self) -> int:
        """Return how many were removed; raises what the database or the disk refuses with.

        Versions that are stored meanwhile hold their blobs, so they need not be known.
        """
        keep, after = await self._database(self._catalog.needed_blobs)
        while after is not None:
            more, after = await self._database(partial(self._catalog.needed_blobs, after))
            keep |= more
        now_s = self._clock.unix_ns() / 1e9
        done = await asyncio.to_thread(collect, self._blobs, keep, now_s, GRACE_S)
        if done.removed or done.stuck:
            log.info("blobs_removed", removed=done.removed, stuck=done.stuck)
        return done.removed
