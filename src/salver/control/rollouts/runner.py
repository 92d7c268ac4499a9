"""The loop that drives rollouts. What is decided is written down before it is acted on."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from salver.control.database import DatabaseThread
from salver.control.desired import Desired
from salver.control.hub import Hub
from salver.control.reconcile import Reconciler
from salver.control.rollouts.aliases import followed
from salver.control.rollouts.analyst import Analyst, Look, with_columns
from salver.control.rollouts.earlier import fixed
from salver.control.rollouts.evidence import EvidenceBooks
from salver.control.rollouts.facts import Facts, facts_of
from salver.control.rollouts.gates import check_thawed
from salver.control.rollouts.journal import line_of, record_of, rollout_of
from salver.control.rollouts.looks import Looks, Seen, failed, place
from salver.control.webhooks.deliverer import Deliverer
from salver.control.webhooks.outbox import answer_of, told
from salver.core.clock import Clock
from salver.core.errors import Conflict, EndpointFrozen, SalverError
from salver.core.rollouts import BLUE_GREEN
from salver.observe.logs import get_logger
from salver.observe.merge import Totals
from salver.registry.catalog import Catalog
from salver.registry.database import First, nothing
from salver.registry.feedback import FeedbackStore
from salver.registry.records import Ending
from salver.registry.rollouts import RolloutStore
from salver.registry.sides import SideStore
from salver.registry.state import StateStore
from salver.registry.webhooks import DeliveryStore
from salver.rollout.machine import (
    PREPARING,
    PROMOTED,
    ROLLED_BACK,
    SYSTEM,
    Answer,
    Command,
    Finding,
    Rollout,
    Tick,
    Transition,
    command,
    tick,
)

log = get_logger(__name__)

_SAVE_S = 1.0
_NANOSECOND = 1e-9
# For so many reports a gateway may be silent about a process that has ended.
_PATIENCE = 2
_THAW = frozenset(("step", "weight", "promote"))


class Stores(NamedTuple):
    """Where rollouts and endpoints are kept, what is told of them, and the thread to ask."""

    rollouts: RolloutStore
    sides: SideStore
    state: StateStore
    reported: FeedbackStore
    deliveries: DeliveryStore
    catalog: Catalog
    database: DatabaseThread


class Runner:
    """Component that ticks every rollout that has not ended.

    ``lock`` is held while rollouts change, by whoever changes them, and never while one is
    analysed. ``current`` are the newest
    states, ``findings`` what was last said of each; both by endpoint. ``deliverer`` is woken when
    webhooks are to be told of a change.
    """

    def __init__(
        self,
        stores: Stores,
        reconciler: Reconciler,
        hub: Hub,
        books: EvidenceBooks,
        deliverer: Deliverer,
        clock: Clock,
    ) -> None:
        self._stores = stores
        self._reconciler = reconciler
        self._hub = hub
        self._books = books
        self._looks = Looks(
            Analyst(books, stores.reported, stores.database),
            clock,
            reconciler.settings.control.analysis_timeout_s,
            hub.merger.count,
        )
        self.deliverer = deliverer
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._last_ns = 0
        self._unsaved_s = 0.0
        self._fence = 0
        self.lock = asyncio.Lock()
        self.current: dict[str, Rollout] = {}
        self.findings: dict[str, Finding] = {}

    async def start(self, interval_s: float) -> None:
        """Take up what has not ended and begin to tick, and to tell webhooks."""
        self._last_ns = self._clock.monotonic_ns()
        await self.deliverer.start()
        self._task = asyncio.create_task(self._tick_for_ever(interval_s))

    async def stop(self) -> None:
        """Tick no more; what has been decided is written down."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._looks.stop()
        await self.deliverer.stop()

    def wish(self, endpoint: str) -> Desired | None:
        """Return what is wanted of an endpoint."""
        return next((d for d in self._reconciler.desired if d.spec.name == endpoint), None)

    def facts(self, rollout: Rollout) -> Facts:
        """Return what the processes say of a rollout."""
        wish = self.wish(rollout.endpoint)
        if wish is None:
            return Facts(False, False, "")
        return facts_of(rollout, wish, self._reconciler.observed())

    async def refresh(self) -> None:
        """Read what is stored; states that are known already keep the time they have counted."""
        records = await self._stores.database(self._stores.rollouts.active)
        stored = {record.endpoint: rollout_of(record) for record in records}
        for endpoint, rollout in stored.items():
            known = self.current.get(endpoint)
            if known is not None and place(known) == place(rollout):
                stored[endpoint] = known
        self.current = stored

    async def commit(
        self,
        after: Rollout,
        transition: Transition,
        check: Callable[[], None] | None = None,
        also: First = nothing,
    ) -> None:
        """Write a change down, then act on it; raises ``Conflict`` and ``Standby``.

        To be called with the lock held. ``check`` is asked on the database's thread, with nothing
        between it and the change; when it raises, nothing is changed. ``also`` writes what else
        belongs to the change.
        """
        record, line = record_of(after), line_of(transition)
        tell = told(self._stores.deliveries, after, transition)

        def together(connection: sa.Connection) -> None:
            tell(connection)
            also(connection)

        def work() -> None:
            if check is not None:
                check()
            # Here, so that no alias moves between the look at it and the change.
            self._stores.rollouts.change(record, line, self._ending(after), together)

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
            self._looks.drop(after.endpoint)
            self._books.close(after.endpoint)
        self._reconciler.wake()
        self.deliverer.wake()

    def _ending(self, after: Rollout) -> Ending | None:
        """Return what the end of a rollout does to its endpoint; on the database's thread."""
        if after.state == ROLLED_BACK:
            return Ending(rolled_back=after.target, reason=after.reason)
        if after.state != PROMOTED:
            return None
        stores = self._stores
        spec = stores.state.endpoint(after.endpoint)
        if spec is None:
            return None
        alias = followed(spec, after, stores.catalog)
        model, _, version = after.target.rpartition(":")
        promoted = msgspec.structs.replace(spec, model=model, version=int(version), alias=alias)
        return Ending(promoted, fixed(spec, after.source), after.policy.keep_previous_s)

    async def _tick_for_ever(self, interval_s: float) -> None:
        while True:
            try:
                await self._tick()
            except SalverError as error:
                log.warning("rollouts_not_ticked", code=error.code, cause=error.message)
            except Exception:  # a fault of ours must not end the loop
                log.exception("rollouts_not_ticked")
            await asyncio.sleep(interval_s)

    async def _tick(self) -> None:
        """Look at every rollout and act on that; people may change them while it looks."""
        if not self._stores.rollouts.fence:
            self._last_ns = self._clock.monotonic_ns()
            return
        async with self.lock:
            problems = await self._prepare()
        looked = [
            rollout
            for rollout in self.current.values()
            if rollout.step > PREPARING and rollout.endpoint not in problems
        ]
        # Adding up what all gateways sent takes long, and only copies are judged by that.
        copies = any(rollout.policy.strategy == BLUE_GREEN for rollout in looked)
        totals = self._hub.merger.totals() if copies else Totals({}, {})
        places = {rollout.endpoint: place(rollout) for rollout in self.current.values()}
        seen = {**await self._looks.at(looked, totals), **problems}
        async with self.lock:
            await self._act(places, seen)

    async def _prepare(self) -> dict[str, Seen]:
        """Know what is stored, and return what is wrong with the evidence of rollouts."""
        fence = self._stores.rollouts.fence
        if fence != self._fence:
            self._forget(fence)
        await self.refresh()
        problems: dict[str, Seen] = {}
        for rollout in self.current.values():
            if rollout.step > PREPARING:
                try:
                    await self._open_book(rollout)
                except Exception as error:  # whatever it raises, a person has to look
                    problems[rollout.endpoint] = failed(rollout.endpoint, error)
        return problems

    async def _act(self, places: dict[str, tuple[int, int]], seen: dict[str, Seen]) -> None:
        """Let time pass for every rollout; what was seen of one counts if it is as it was then."""
        now_ns = self._clock.monotonic_ns()
        elapsed_s, self._last_ns = (now_ns - self._last_ns) * _NANOSECOND, now_ns
        if self._stores.rollouts.fence != self._fence:
            return
        self._unsaved_s += elapsed_s
        await self.refresh()
        for rollout in list(self.current.values()):
            is_same = places.get(rollout.endpoint) == place(rollout)
            known = seen.get(rollout.endpoint, Seen()) if is_same else Seen()
            await self._try_to_advance(rollout, known, elapsed_s)
        if self._unsaved_s >= _SAVE_S:
            self._unsaved_s, spent_s = 0.0, self._unsaved_s
            await self._save(spent_s)

    def _forget(self, fence: int) -> None:
        """Begin with what is stored: while another control was in charge it may have gone on."""
        # One that is open still has looked at the books of before, or is about to miss them.
        self._looks.stop()
        self._books.clear()
        self.current.clear()
        self.findings.clear()
        self._fence = fence

    async def _try_to_advance(self, rollout: Rollout, known: Seen, elapsed_s: float) -> None:
        """Let time pass for one rollout; whatever is wrong with it, the others go on.

        What could not be written has not happened, and is decided anew.
        """
        endpoint = rollout.endpoint
        try:
            await self._advance(rollout, known, elapsed_s)
        except SalverError as error:
            self.current[endpoint] = rollout
            log.warning(
                "rollout_not_ticked", endpoint=endpoint, code=error.code, cause=error.message
            )
        except Exception:  # a fault of ours must not stop the others
            self.current[endpoint] = rollout
            log.exception("rollout_not_ticked", endpoint=endpoint)

    async def _advance(self, rollout: Rollout, known: Seen, elapsed_s: float) -> None:
        counted = rollout if known.look is None else with_columns(rollout, known.look)
        after, transition = tick(counted, await self._ticked(rollout, known, elapsed_s))
        self.current[after.endpoint] = after
        if transition is not None:
            await self._commit_unless_frozen(rollout, after, transition)
        elif after.columns != rollout.columns:
            await self._count(after)

    async def _commit_unless_frozen(
        self, before: Rollout, after: Rollout, transition: Transition
    ) -> None:
        """Commit; what is frozen gets no more traffic, also when it was not paused in time."""
        endpoint, store = before.endpoint, self._stores.rollouts
        check = (lambda: check_thawed(store, endpoint)) if transition.kind in _THAW else None
        try:
            await self.commit(after, transition, check)
        except EndpointFrozen as error:
            paused, line = command(before, Command("pause", SYSTEM, error.message))
            assert line is not None
            await self.commit(paused, line)

    async def _count(self, after: Rollout) -> None:
        """Let gateways count something else, once that is written down."""
        record = record_of(after)
        await self._stores.database(lambda: self._stores.rollouts.save(record, {}))
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

    async def _ticked(self, rollout: Rollout, known: Seen, elapsed_s: float) -> Tick:
        facts = self.facts(rollout)
        snapshot_s = self._reconciler.settings.control.snapshot_interval_s
        requests, finding = (known.look or Look(0, None))[:2]
        if known.look is not None and not known.look.gaps.leave_out_the_same(rollout.gaps):
            # It looked at what is left out by now, or not at what counts again.
            finding = None
        if finding is not None:
            finding = msgspec.structs.replace(finding, reason=_storable(finding.reason))
            self.findings[rollout.endpoint] = finding
        return Tick(
            elapsed_s,
            facts.is_ready,
            facts.is_primary_ready,
            requests if known.look is not None else None,
            finding,
            _storable(facts.failure),
            _storable(known.problem),
            self._hub.crashes(rollout.target, rollout.first_epoch, _PATIENCE * snapshot_s),
            await self._answer(rollout),
            self._books.newest_epoch(rollout.endpoint),
        )

    async def _answer(self, rollout: Rollout) -> Answer | None:
        """Return what the webhooks say that are asked."""
        asked, store = rollout.asked, self._stores.deliveries
        if asked is None:
            return None
        found = await self._stores.database(
            lambda: store.of_event(rollout.endpoint, rollout.number, asked.sequence)
        )
        return answer_of(found)

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


def _storable(text: str) -> str:
    """Return what a model or a library says without what PostgreSQL does not store."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
