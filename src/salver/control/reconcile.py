"""The loop that turns what is wanted into plans, woken by every change."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from salver.control.database import DatabaseThread
from salver.control.desired import Desired, Observed
from salver.control.golden import GoldenGate
from salver.control.hosts import placed
from salver.control.hub import Hub
from salver.control.loads import AddressOf
from salver.control.planner import next_plan, numbered, same
from salver.control.rollouts.journal import rollout_of
from salver.control.rollouts.wishes import Wishes
from salver.control.scaling import Scaler, Scaling
from salver.control.usage import reports_of
from salver.core.clock import Clock
from salver.core.errors import SalverError
from salver.core.settings import Settings
from salver.observe.logs import get_logger
from salver.observe.merge import Totals
from salver.registry.catalog import Catalog
from salver.registry.lease import Lease
from salver.registry.rollouts import RolloutStore
from salver.registry.sides import SideStore
from salver.registry.state import StateStore
from salver.wire.messages import Plan
from salver.wire.planfile import read_plan, write_plan

log = get_logger(__name__)

_MILLISECOND_NS = 1_000_000
_PERSIST_S = 5.0
_FAILED_PAUSE_S = 1.0
_SHOW_S = 5.0
# The plan goes to every process, so a large registry is not shown whole.
_MAX_MODELS = 1000
_SIZE_RATIO = 1.5
_AUTOSCALER = "autoscaler"
_MAX_REASON = 500


class Reconciler:
    """Component that owns the plan; ``begun`` counts the rounds in which it may be made anew."""

    def __init__(
        self,
        home: Path,
        catalog: Catalog,
        state: StateStore,
        database: DatabaseThread,
        settings: Settings,
        clock: Clock,
        rollouts: RolloutStore,
        sides: SideStore,
        lease: Lease,
    ) -> None:
        self._plan_path = home / "run" / "plan.msgpack"
        self.address_of = AddressOf(str(home / "run"))
        self._catalog = catalog
        self._state = state
        self._database = database
        self.settings = settings
        self._clock = clock
        self._rollouts = rollouts
        self._sides = sides
        self._lease = lease
        self._gate: GoldenGate | None = None
        self._wake = asyncio.Event()
        self._round = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._hub: Hub | None = None
        self._written, self._written_ns = Totals({}, {}), 0
        self._kept: tuple[int, Totals] | None = None
        self.scaler = Scaler(settings, clock)
        self.plan = Plan(0, 0)
        self.begun = 0
        self.desired: list[Desired] = []

    def wake(self) -> None:
        """Something changed: reconcile soon."""
        self._wake.set()

    def observed(self) -> Observed:
        """Return what the processes have reported, as far as gates let it be seen."""
        assert self._gate is not None
        return self._gate.screen(self.desired, self.plan)

    def wanted(self) -> list[Desired]:
        """Return what is wanted as it is stored at this moment; on the database's thread."""
        return self._read({})[0]

    async def start(self, hub: Hub, gate: GoldenGate) -> None:
        """Take the plan on disk up and begin to follow what is wanted.

        What is wanted is known when this returns, so that nobody is told that there is nothing.
        """
        self._hub, self._gate = hub, gate
        self.plan = read_plan(self._plan_path) or self.plan
        self.desired, _ = await self._database(lambda: self._read({}))
        self._written, self._written_ns = hub.merger.totals(), self._clock.monotonic_ns()
        await hub.start(self.plan if self.plan.number else None)
        self._tasks = [
            asyncio.create_task(self._reconcile_for_ever()),
            asyncio.create_task(self._persist_for_ever()),
        ]

    async def stop(self) -> None:
        """Stop the loops and write the counts down."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._persist_soon()
        if self._gate is not None:
            await self._gate.stop()
        if self._hub is not None:
            await self._hub.stop()

    async def wait_for(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until ``done`` holds after a round of reconciling; False when time runs out."""
        try:
            async with asyncio.timeout(timeout_s), self._round:
                await self._round.wait_for(done)
        except TimeoutError:
            return False
        return True

    async def persist(self) -> None:
        """Write the counts down. Raises what the database cannot be written for."""
        hub = self._hub
        if hub is None:
            return
        hub.retire_absent()
        merger, now_ns = hub.merger, self._clock.monotonic_ns()
        fence = self._lease.fence
        if fence:
            if self._kept is None or self._kept[0] != fence:
                merger.begin_anew()
            endpoints = self.plan.endpoints
            merger.planned({one.id for endpoint in endpoints for one in endpoint.variants}, now_ns)
        retired, live, totals = merger.totals_retired(), dict(merger.live), merger.totals()
        if fence:
            # They change when a process ends only; another control may have written its own.
            kept = (fence, retired)
            changed = None if kept == self._kept else retired
            check = self._lease.check
            await self._database(lambda: self._state.save_telemetry(changed, live, check))
            self._kept = kept
        self._written, self._written_ns = totals, now_ns

    async def counts(self) -> tuple[Totals, float]:
        """Return the totals that were written down last, if possible now, and their age in s.

        What is not written could be gone after a crash of control, and a total that was shown would
        then fall.
        """
        await self._persist_soon()
        return self._written, (self._clock.monotonic_ns() - self._written_ns) * 1e-9

    async def _reconcile_for_ever(self) -> None:
        while True:
            self._wake.clear()
            self.begun += 1
            try:
                await self._reconcile()
            except SalverError as error:
                log.error("reconcile_failed", code=error.code, cause=error.message)
                await asyncio.sleep(_FAILED_PAUSE_S)
            except Exception:  # a fault of ours must not end the loop
                log.exception("reconcile_failed")
                await asyncio.sleep(_FAILED_PAUSE_S)
            async with self._round:
                self._round.notify_all()
            try:
                async with asyncio.timeout(self.settings.control.reconcile_interval_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _reconcile(self) -> None:
        hub = self._hub
        assert hub is not None
        if not self._lease.fence:
            return
        measured = hub.sizes()
        desired, models = await self._database(lambda: self._read(measured))
        # Replicas are counted by what workers report, gates or not.
        reported = hub.observed()
        shared = max(1, self.settings.engine.shared_workers)
        items = placed(desired, self.plan, shared)
        self.desired = self.scaler.apply(items, reported, lambda: reports_of(hub), self.plan)
        changes = self.scaler.changes(self.plan)
        plan = next_plan(self.desired, self.observed(), self.plan, self.address_of, models, shared)
        if same(plan, self.plan) and self.plan.number:
            return
        number = await self._database(self._state.next_plan_number)
        # The plan on disk may be newer than a database that was restored from a backup.
        number = max(number, self.plan.number + 1)
        now_ms = self._clock.unix_ns() // _MILLISECOND_NS
        plan = msgspec.structs.replace(numbered(plan, number), created_unix_ms=now_ms)
        # Before it is in force anywhere: what cannot be sent would be taken for pushed.
        frame = hub.encoded(plan)
        write_plan(self._plan_path, plan)
        self.plan = plan
        hub.push(plan, frame)
        log.info("plan_pushed", number=number, endpoints=len(plan.endpoints))
        await self._tell(changes)

    async def _tell(self, changes: Mapping[str, Scaling]) -> None:
        """Write down what autoscaling did, and why."""
        for name, done in changes.items():
            counts = {"before": str(done.before), "replicas": str(done.count)}
            details = {**counts, "reason": done.reason[:_MAX_REASON]}
            log.info("scaled", endpoint=name, panic=done.panics, **details)
            await self._database(partial(self._state.record, _AUTOSCALER, "scale", name, details))

    def _read(self, measured: dict[str, int]) -> tuple[list[Desired], list[str]]:
        """Return what is wanted, and what the data port may load; remember measured sizes."""
        sizes = self._catalog.sizes()
        news = {name: size for name, size in measured.items() if _differs(size, sizes.get(name))}
        if news:
            self._catalog.save_sizes(news)
            sizes |= news
        shows = self.settings.http.repository_changes
        models = self._catalog.names(_MAX_MODELS) if shows else []
        wishes = Wishes(self._catalog.resolver(), sizes, self.settings)
        rollouts = {item.endpoint: rollout_of(item) for item in self._rollouts.active()}
        previous = self._rollouts.previous()
        specs = self._state.endpoints()
        sides = self._sides.active()
        wanted = [
            wishes.of(s, rollouts.get(s.name), previous.get(s.name), sides.get(s.name))
            for s in specs
        ]
        return wanted, models

    async def _persist_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_PERSIST_S)
            await self._try_to_persist()

    async def _persist_soon(self) -> None:
        """Write the counts down unless that takes too long for who is waiting."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHOW_S):
                await self._try_to_persist()

    async def _try_to_persist(self) -> None:
        try:
            await self.persist()
        except SalverError as error:
            log.error("counts_not_written", code=error.code, cause=error.message)
        except Exception:  # a fault of ours must end neither the loop nor what people are shown
            log.exception("counts_not_written")


def _differs(size_bytes: int, known_bytes: int | None) -> bool:
    """Tell whether a size is worth a new plan; every load measures a little more or less."""
    if known_bytes is None:
        return True
    return not known_bytes / _SIZE_RATIO <= size_bytes <= known_bytes * _SIZE_RATIO
