"""The loop that drives rollouts. What is decided is written down before it is acted on."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from salver.control.database import DatabaseThread
from salver.control.desired import Desired
from salver.control.hub import Hub
from salver.control.reconcile import Reconciler
from salver.control.rollouts.analyst import Analyst, with_columns
from salver.control.rollouts.earlier import fixed
from salver.control.rollouts.evidence import EvidenceBooks
from salver.control.rollouts.facts import Facts, Watcher
from salver.control.rollouts.journal import line_of, record_of, rollout_of
from salver.core.clock import Clock
from salver.core.errors import Conflict, SalverError
from salver.observe.logs import get_logger
from salver.observe.merge import Totals
from salver.registry.feedback import FeedbackStore
from salver.registry.records import Ending
from salver.registry.rollouts import RolloutStore
from salver.registry.state import StateStore
from salver.rollout.machine import (
    PREPARING,
    PROMOTED,
    ROLLED_BACK,
    Finding,
    Rollout,
    Tick,
    Transition,
    tick,
)

log = get_logger(__name__)

_SAVE_S = 1.0
_NANOSECOND = 1e-9


class Stores(NamedTuple):
    """Where rollouts and endpoints are kept, and the thread that may ask them."""

    rollouts: RolloutStore
    state: StateStore
    reported: FeedbackStore
    database: DatabaseThread


class Runner:
    """Component that ticks every rollout that has not ended.

    ``lock`` is held while rollouts change, by whoever changes them. ``current`` are the newest
    states, ``findings`` what was last said of each; both by endpoint.
    """

    def __init__(
        self, stores: Stores, reconciler: Reconciler, hub: Hub, books: EvidenceBooks, clock: Clock
    ) -> None:
        self._stores = stores
        self._reconciler = reconciler
        self._hub = hub
        self._books = books
        self._analyst = Analyst(books, stores.reported, stores.database)
        self._clock = clock
        self._watcher = Watcher()
        self._task: asyncio.Task[None] | None = None
        self._last_ns = 0
        self._unsaved_s = 0.0
        self._fence = 0
        self.lock = asyncio.Lock()
        self.current: dict[str, Rollout] = {}
        self.findings: dict[str, Finding] = {}

    async def start(self, interval_s: float) -> None:
        """Take up what has not ended and begin to tick."""
        self._last_ns = self._clock.monotonic_ns()
        self._task = asyncio.create_task(self._tick_for_ever(interval_s))

    async def stop(self) -> None:
        """Tick no more; what has been decided is written down."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wish(self, endpoint: str) -> Desired | None:
        """Return what is wanted of an endpoint."""
        return next((d for d in self._reconciler.desired if d.spec.name == endpoint), None)

    def facts(self, rollout: Rollout) -> Facts:
        """Return what the processes say of a rollout."""
        wish = self.wish(rollout.endpoint)
        if wish is None:
            return Facts(False, False, "", 0)
        observed, incarnations = self._reconciler.observed(), self._hub.incarnations()
        return self._watcher.facts(rollout, wish, observed, incarnations)

    async def refresh(self) -> None:
        """Read what is stored; states that are known already keep the time they have counted."""
        records = await self._stores.database(self._stores.rollouts.active)
        stored = {record.endpoint: rollout_of(record) for record in records}
        for endpoint, rollout in stored.items():
            known = self.current.get(endpoint)
            if known is not None and _place(known) == _place(rollout):
                stored[endpoint] = known
        self.current = stored

    async def commit(
        self, after: Rollout, transition: Transition, check: Callable[[], None] | None = None
    ) -> None:
        """Write a change down, then act on it; raises ``Conflict`` and ``Standby``.

        To be called with the lock held. ``check`` is asked on the database's thread, with nothing
        between it and the change; when it raises, nothing is changed.
        """
        ending = await self._ending(after)
        record, line = record_of(after), line_of(transition)

        def work() -> None:
            if check is not None:
                check()
            self._stores.rollouts.change(record, line, ending)

        await self._stores.database(work)
        log.info(
            "rollout_changed",
            endpoint=after.endpoint,
            rollout=after.number,
            change=transition.kind,
            state=after.state,
            weight=after.weight,
            actor=transition.actor,
            reason=transition.reason,
        )
        if after.is_active:
            self.current[after.endpoint] = after
        else:
            self.current.pop(after.endpoint, None)
            self._watcher.forget(after)
            self._books.close(after.endpoint)
        self._reconciler.wake()

    async def _ending(self, after: Rollout) -> Ending | None:
        """Return what the end of a rollout does to its endpoint."""
        if after.state == ROLLED_BACK:
            return Ending(rolled_back=after.target, reason=after.reason)
        if after.state != PROMOTED:
            return None
        spec = await self._stores.database(lambda: self._stores.state.endpoint(after.endpoint))
        if spec is None:
            return None
        model, _, version = after.target.rpartition(":")
        follows = spec.rollout is not None and spec.model == model
        promoted = msgspec.structs.replace(
            spec, model=model, version=int(version), alias=spec.alias if follows else None
        )
        return Ending(promoted, fixed(spec, after.source), after.policy.keep_previous_s)

    async def _tick_for_ever(self, interval_s: float) -> None:
        while True:
            try:
                async with self.lock:
                    await self._tick()
            except SalverError as error:
                log.warning("rollouts_not_ticked", code=error.code, cause=error.message)
            except Exception:  # a fault of ours must not end the loop
                log.exception("rollouts_not_ticked")
            await asyncio.sleep(interval_s)

    async def _tick(self) -> None:
        now_ns = self._clock.monotonic_ns()
        elapsed_s, self._last_ns = (now_ns - self._last_ns) * _NANOSECOND, now_ns
        fence = self._stores.rollouts.fence
        if not fence:
            return
        if fence != self._fence:
            self._forget(fence)
        self._unsaved_s += elapsed_s
        await self.refresh()
        totals = self._hub.merger.totals() if self.current else Totals({}, {})
        for rollout in list(self.current.values()):
            counted, seen = await self._seen(rollout, totals, elapsed_s)
            after, transition = tick(counted, seen)
            self.current[after.endpoint] = after
            if transition is not None:
                await self._try_to_commit(rollout, after, transition)
            elif after.columns != rollout.columns:
                await self._count(rollout, after)
        if self._unsaved_s >= _SAVE_S:
            self._unsaved_s, spent_s = 0.0, self._unsaved_s
            await self._save(spent_s)

    def _forget(self, fence: int) -> None:
        """Begin with what is stored: while another control was in charge it may have gone on."""
        self._books.clear()
        self.current.clear()
        self.findings.clear()
        self._fence = fence

    async def _try_to_commit(self, before: Rollout, after: Rollout, transition: Transition) -> None:
        """Commit; what could not be written has not happened, and is decided anew."""
        try:
            await self.commit(after, transition)
        except SalverError:
            self.current[before.endpoint] = before
            raise

    async def _count(self, before: Rollout, after: Rollout) -> None:
        """Let gateways count something else, once that is written down."""
        record = record_of(after)
        try:
            await self._stores.database(lambda: self._stores.rollouts.save(record, {}))
        except SalverError:
            self.current[before.endpoint] = before
            raise
        self._reconciler.wake()

    async def _open_book(self, rollout: Rollout) -> None:
        """Take up what is stored of a rollout's evidence, and the block that is on."""
        if not self._books.has(rollout.endpoint, rollout.number):
            store = self._stores.rollouts
            stored = await self._stores.database(
                lambda: store.evidence(rollout.endpoint, rollout.number)
            )
            self._books.open(rollout.endpoint, rollout.number, stored)
        plans = self._reconciler.plan.endpoints
        plan = next((each for each in plans if each.name == rollout.endpoint), None)
        if self._books.begin(rollout, plan):
            await self._save(0.0)

    async def _seen(
        self, rollout: Rollout, totals: Totals, elapsed_s: float
    ) -> tuple[Rollout, Tick]:
        facts = self.facts(rollout)
        requests, finding, problem = None, None, ""
        if rollout.step > PREPARING:
            try:
                await self._open_book(rollout)
                look = await self._analyst.look(rollout, totals)
                requests, finding = look.requests, look.finding
                rollout = with_columns(rollout, look)
                if finding is not None:
                    self.findings[rollout.endpoint] = finding
            except Exception as error:  # whatever it raises, a person has to look
                log.exception("analysis_failed", endpoint=rollout.endpoint)
                problem = f"the analysis failed ({type(error).__name__}: {error})"[:500]
        return rollout, Tick(
            elapsed_s,
            facts.is_ready,
            facts.is_primary_ready,
            requests,
            finding,
            facts.failure,
            problem,
            facts.crashes,
        )

    async def _save(self, spent_s: float) -> None:
        """Write down how far rollouts are, and for how long earlier versions stay."""
        stores = self._stores
        books = self._books
        rows = [
            (record_of(rollout), books.unsaved(rollout.endpoint, rollout.number))
            for rollout in self.current.values()
        ]

        def work() -> bool:
            for record, evidence in rows:
                stores.rollouts.save(record, evidence)
            left = {
                endpoint: max(0.0, state.left_s - spent_s)
                for endpoint, state in stores.rollouts.previous().items()
                if state.left_s > 0
            }
            if left:
                stores.rollouts.save_left(left)
            return not all(left.values())

        try:
            is_over = await stores.database(work)
        except Conflict:
            await self.refresh()
            return
        for record, evidence in rows:
            books.saved(record.endpoint, record.number, evidence)
        if is_over:
            self._reconciler.wake()


def _place(rollout: Rollout) -> tuple[int, int]:
    return rollout.number, rollout.sequence
