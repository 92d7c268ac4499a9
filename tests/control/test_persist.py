"""Counts are written down as often as they change, and come back as they were."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from salver.control.golden import GoldenGate
from salver.control.hub import Hub
from salver.core.clock import ManualClock
from salver.core.errors import ControlUnavailable, Standby
from salver.observe.fading import KEPT_S
from salver.observe.merge import Merger, Totals
from salver.registry.blobs import BlobStore
from salver.registry.lease import STALE_S
from salver.wire.messages import HistogramSample, Sample, Snapshot
from tests.control.parts import Control, control
from tests.observe.test_fading import shown

_GONE = "DELETE FROM retired_counts"


class Books:
    """A control that is in charge, its counts, and how often the retired ones were written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.parts = control(folder, "one", self.clock)
        self.merger = Merger()
        self.writes = 0
        event.listen(self.parts.database.engine, "before_cursor_execute", self._count)

    async def persist(self, times: int = 1) -> int:
        """Write the counts down so many times, and return how often the retired ones were."""
        before = self.writes
        for _ in range(times):
            await self.parts.reconciler.persist()
        return self.writes - before

    async def stored(self) -> tuple[Totals, dict[str, Snapshot]]:
        """Return what a control would find that is started now."""
        return await self.parts.thread(self.parts.state.load_telemetry)

    async def execute(self, statement: str) -> None:
        """Change the database behind control's back."""

        def run() -> None:
            with self.parts.database.write() as connection:
                connection.execute(sa.text(statement))

        await self.parts.thread(run)

    def report(self, incarnation: str, value: float) -> None:
        """Take what a process counted."""
        counters = (Sample("salver_batches_total", ("m:1",), value),)
        histograms = (HistogramSample("salver_run_seconds", ("e",), (1, 2), value),)
        self.merger.update(
            incarnation, Snapshot(round(value), 1, 1, "ready", 5, (), counters, (), histograms)
        )

    def _count(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.writes += statement.startswith(_GONE)


@asynccontextmanager
async def books(folder: Path) -> AsyncIterator[Books]:
    """Give a control that has begun."""
    (folder / "run").mkdir()
    made = Books(folder)
    reconciler = made.parts.reconciler
    hub = Hub(f"unix:{folder}/run/c", "one", made.clock, made.merger, reconciler.wake)
    blobs = BlobStore(folder / "blobs")
    await reconciler.start(hub, GoldenGate(blobs, hub, reconciler.address_of, reconciler.wake))
    try:
        yield made
    finally:
        await reconciler.stop()
        made.parts.thread.stop()
        made.parts.database.close()


async def take_over(made: Books, other: Control) -> None:
    """Let another control be in charge, which has counts of its own, and take over from it."""
    mine = made.parts.lease
    for taker, loser in ((other.lease, mine), (mine, other.lease)):
        await made.parts.thread(taker.renew)
        made.clock.advance(STALE_S)
        assert await made.parts.thread(taker.renew)
        assert not await made.parts.thread(loser.renew)
        if taker is other.lease:
            other.state.save_telemetry(Totals({("theirs_total", ()): 1.0}, {}), {})
            assert await made.persist() == 0


def test_retired_totals_are_written_when_they_change(tmp_path: Path) -> None:
    """Once at first and after a process has ended, however often live counts are written."""

    async def run() -> None:
        async with books(tmp_path) as made:
            made.report("a", 2.0)
            assert await made.persist(3) == 1
            made.report("b", 3.0)
            assert await made.persist(2) == 0
            assert await made.stored() == (Totals({}, {}), made.merger.live)
            made.merger.retire("a")
            assert await made.persist(3) == 1
            made.merger.count("salver_webhooks_total", ("failed",))
            assert await made.persist(3) == 1
            made.report("b", 4.0)
            assert await made.persist() == 0
            retired, live = await made.stored()
            assert retired == made.merger.totals_retired()
            assert len(retired.counters) == 2
            assert (live, live["b"].number) == (made.merger.live, 4)

    asyncio.run(run())


def test_retired_totals_are_written_by_whoever_takes_over(tmp_path: Path) -> None:
    """Another control has written its own since, so the same totals are written once more."""

    async def run() -> None:
        async with books(tmp_path) as made:
            made.report("a", 2.0)
            made.merger.retire("a")
            assert await made.persist(2) == 1
            other = control(tmp_path, "two", made.clock)
            await take_over(made, other)
            assert made.parts.lease.fence == 3
            assert await made.persist(3) == 1
            assert await made.stored() == (made.merger.totals_retired(), {})
            other.thread.stop()
            other.database.close()

    asyncio.run(run())


def test_a_standby_throws_no_counts_away(tmp_path: Path) -> None:
    """Its plan is not the one that is in force; in charge it knows of nothing when that left."""

    async def run() -> None:
        async with books(tmp_path) as made:
            made.report("a", 2.0)
            made.merger.retire("a")
            before = made.merger.totals_retired()
            assert await made.persist() == 1
            other = control(tmp_path, "two", made.clock)
            made.clock.advance(STALE_S)
            await made.parts.thread(other.lease.renew)
            made.clock.advance(STALE_S)
            assert await made.parts.thread(other.lease.renew)
            assert not await made.parts.thread(made.parts.lease.renew)
            for _ in range(3):
                made.clock.advance(KEPT_S)
                assert await made.persist() == 0
            assert await made.parts.thread(made.parts.lease.renew)
            assert await made.persist() == 1
            assert made.merger.totals_retired() == before
            assert "m:1" in shown(before)
            made.clock.advance(KEPT_S + 1.0)
            assert await made.parts.thread(made.parts.lease.renew)
            await made.persist()
            assert "m:1" not in shown(made.merger.totals_retired())
            other.thread.stop()
            other.database.close()

    asyncio.run(run())


def test_who_is_no_longer_in_charge_writes_no_counts(tmp_path: Path) -> None:
    """Also when it has not heard of that: those of whoever took over stay as they are."""

    async def run() -> None:
        async with books(tmp_path) as made:
            assert await made.persist() == 1
            made.clock.advance(STALE_S)
            other = control(tmp_path, "two", made.clock)
            made.clock.advance(STALE_S)
            assert await made.parts.thread(other.lease.renew)
            theirs = Totals({("theirs_total", ()): 1.0}, {})
            other.state.save_telemetry(theirs, {})
            made.report("a", 2.0)
            made.merger.retire("a")
            assert made.parts.lease.fence == 1
            with pytest.raises(Standby):
                await made.persist()
            assert await made.stored() == (theirs, {})
            other.thread.stop()
            other.database.close()

    asyncio.run(run())


def test_retired_totals_that_were_not_written_are_written_later(tmp_path: Path) -> None:
    """A write that the database refused is none."""

    async def run() -> None:
        async with books(tmp_path) as made:
            made.report("a", 2.0)
            assert await made.persist() == 1
            made.merger.retire("a")
            await made.execute("ALTER TABLE retired_counts RENAME TO away")
            with pytest.raises(ControlUnavailable, match="retired_counts"):
                await made.persist()
            await made.execute("ALTER TABLE away RENAME TO retired_counts")
            assert await made.persist(2) == 1
            assert await made.stored() == (made.merger.totals_retired(), {})

    asyncio.run(run())
