"""Keeps what traffic experiments get, and lets that of some of them follow success.

What is decided is in SQL before it is in a plan, so that a control that is killed goes on.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from salver.control.reconcile import Reconciler
from salver.control.rollouts.gates import Gates
from salver.control.rollouts.sides import SideParts
from salver.core.clock import Clock
from salver.core.errors import SalverError
from salver.core.sides import EXPERIMENT, THOMPSON, Side
from salver.observe.logs import get_logger
from salver.registry.feedback import Sums
from salver.rollout.evidence import Reading
from salver.rollout.exposures import MAX_BLOCKS, Exposures
from salver.rollout.tally import Packed
from salver.rollout.thompson import Split, Success, known, thompson_split
from salver.wire.messages import Evidence

log = get_logger(__name__)

RATIO_ALPHA = 0.001
_ACTOR = "salver"
_STEADY_CHANGES = 50
_SLOWING = 1.05
_MAX_TICK_S = 5.0
_NANOSECOND = 1e-9
_MILLISECOND_NS = 1_000_000
_SPARE_BLOCKS = 64
_LEAST_MOVE = 300
"""In basis points: less is what the draws alone make of the same knowledge."""


class _Book:
    """What is known of one experiment, and for how long its weights have been as they are."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.exposures = exposures_of(side)
        self.waited_s = 0.0


class SplitChange(msgspec.Struct, frozen=True):
    """One change of an experiment's weights, by version: why, as it is kept in its history.

    ``weights`` are basis points, ``best`` how likely each is the best, ``outcomes`` and ``means``
    what that follows from, from equal parts of each block's traffic.
    """

    weights: dict[str, int]
    best: dict[str, float]
    outcomes: dict[str, float]
    means: dict[str, float | None]


class Pace(NamedTuple):
    """``interval_s`` between two looks, ``split_s`` between two splits of an experiment."""

    interval_s: float
    split_s: float


class Experiments:
    """Component that looks after the experiments that go on. ``rng`` draws splits."""

    def __init__(
        self,
        parts: SideParts,
        gates: Gates,
        reconciler: Reconciler,
        clock: Clock,
        rng: np.random.Generator,
    ) -> None:
        self._parts = parts
        self._gates = gates
        self._reconciler = reconciler
        self._clock = clock
        self._rng = rng
        self._books: dict[str, _Book] = {}
        self._fence = 0
        self._last_ns = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self, pace: Pace) -> None:
        """Begin to look."""
        self._last_ns = self._clock.monotonic_ns()
        self._task = asyncio.create_task(self._look_for_ever(pace))

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def take(self, incarnation: str, evidence: Evidence) -> None:
        """Take what a gateway has counted; what does not fit is written to the log."""
        book = self._books.get(evidence.endpoint)
        if book is None:
            return
        packed = Packed(evidence.width, evidence.rows, evidence.bins)
        try:
            book.exposures.take(
                Reading(incarnation, evidence.number, evidence.epoch, evidence.arm, packed)
            )
        except SalverError as error:
            log.error("evidence_refused", endpoint=evidence.endpoint, cause=error.message)

    async def look(self, split_s: float) -> None:
        """Look at every experiment once; what is wrong with one is logged, and others go on.

        Raises what the database refuses with.
        """
        now_ns = self._clock.monotonic_ns()
        elapsed_s, self._last_ns = (now_ns - self._last_ns) * _NANOSECOND, now_ns
        fence = self._parts.sides.fence
        if fence != self._fence:
            # While another control was in charge it may have gone on.
            self._books.clear()
            self._fence, elapsed_s = fence, 0.0
        if not fence:
            return
        found = await self._parts.database(self._parts.sides.active)
        active = {name: side for name, side in found.items() if side.kind == EXPERIMENT}
        for name, book in list(self._books.items()):
            if name not in active or active[name].number != book.side.number:
                await self._save(book)
                del self._books[name]
        for side in active.values():
            book = await self._book(side)
            book.waited_s += min(max(elapsed_s, 0.0), _MAX_TICK_S)
            self._begin(book)
            await self._save(book)
            if side.split == THOMPSON and book.waited_s >= pause_s(side.changes, split_s):
                await self._try_to_split(book)

    async def _look_for_ever(self, pace: Pace) -> None:
        while True:
            try:
                await self.look(pace.split_s)
            except SalverError as error:
                log.warning("experiments_not_looked_at", code=error.code, cause=error.message)
            except Exception:  # a fault of ours must not end the loop
                log.exception("experiments_not_looked_at")
            await asyncio.sleep(pace.interval_s)

    async def _book(self, side: Side) -> _Book:
        book = self._books.get(side.endpoint)
        if book is None:
            sides, book = self._parts.sides, _Book(side)
            book.exposures.restore(await self._parts.database(lambda: sides.evidence(side)))
            self._books[side.endpoint] = book
        book.side = side
        return book

    def _begin(self, book: _Book) -> None:
        """Open the block that the plan has begun, if all arms have their weights in it."""
        side = book.side
        plans = self._reconciler.plan.endpoints
        plan = next((each for each in plans if each.name == side.endpoint), None)
        if plan is None or plan.salt != side.salt or plan.floor != side.floor:
            return
        if len(book.exposures.blocks) >= MAX_BLOCKS:
            return
        routed = {variant.id: variant.weight for variant in plan.variants if variant.weight}
        epoch = plan.variants[0].weight_epoch if plan.variants else 0
        if routed == side.weights and plan.evidence and side.covers(epoch):
            book.exposures.begin(epoch, tuple(arm.weight for arm in side.arms))

    async def _save(self, book: _Book) -> None:
        rows, sides = dict(book.exposures.unsaved), self._parts.sides
        if rows:
            await self._parts.database(lambda: sides.save(book.side, rows))
            book.exposures.saved(rows)

    async def _try_to_split(self, book: _Book) -> None:
        """Draw new weights; those of a frozen endpoint stay, and it is tried again later."""
        book.waited_s = 0.0
        try:
            await self._split(book)
        except SalverError as error:
            endpoint = book.side.endpoint
            log.warning("split_kept", endpoint=endpoint, code=error.code, cause=error.message)
        except Exception:  # a fault of ours must not stop the others
            log.exception("split_kept", endpoint=book.side.endpoint)

    async def _split(self, book: _Book) -> None:
        """Draw new weights, and write them down with why; the next plan has them."""
        side, parts = book.side, self._parts
        if len(book.exposures.blocks) >= MAX_BLOCKS - _SPARE_BLOCKS:
            return
        epochs = sorted(book.exposures.blocks)
        sums = await parts.database(lambda: parts.outcomes.sums(side.endpoint, side.metric, epochs))
        ratio = await asyncio.to_thread(book.exposures.copy().ratio, RATIO_ALPHA)
        if not ratio.holds:
            log.warning("split_kept", endpoint=side.endpoint, cause=ratio.reason)
            return
        success = success_of(side, book.exposures.blocks, sums)
        split = thompson_split(success, side.floor, self._rng, prefers_less=side.prefers_less)
        moves = [abs(a - b) for a, b in zip(split.weights, side.weights.values(), strict=True)]
        if max(moves) < _LEAST_MOVE or not any(one.count for one in success):
            return
        changed, line = _changed(side, split, success)
        now_ms = self._clock.unix_ns() // _MILLISECOND_NS

        def work() -> None:
            self._gates.check_thawed(side.endpoint)
            parts.sides.change(changed, msgspec.json.encode(line), now_ms)
            shown = {name: f"{weight / 100:g}" for name, weight in line.weights.items()}
            parts.state.record(_ACTOR, "experiment split", side.endpoint, shown)

        await parts.database(work)
        log.info("experiment_split", endpoint=side.endpoint, weights=line.weights)
        self._reconciler.wake()


def exposures_of(side: Side) -> Exposures:
    """Return where the traffic of an experiment is noted, empty."""
    return Exposures(tuple(arm.version for arm in side.arms), side.floor)


def pause_s(changes: int, split_s: float) -> float:
    """Return how long weights stay: later ones longer, so that their number stays small."""
    return split_s * float(_SLOWING ** max(0, changes - _STEADY_CHANGES))


def success_of(
    side: Side, blocks: Mapping[int, tuple[int, ...]], sums: Sequence[Sums]
) -> tuple[Success, ...]:
    """Return what is known of each arm's outcomes, from equal parts of each block's traffic."""
    names = tuple(arm.version for arm in side.arms)
    versions = {int(name.rpartition(":")[2]): name for name in names}
    found: dict[int, dict[str, Success]] = {epoch: {} for epoch in blocks}
    for one in sums:
        name = versions.get(one.version)
        if name is not None and one.place >= 0 and one.weight_epoch in found:
            block = found[one.weight_epoch]
            before = block.get(name, Success())
            block[name] = Success(
                before.count + one.count, before.total + one.total, before.squares + one.squares
            )
    pairs = [
        (dict(zip(names, weights, strict=True)), found[epoch]) for epoch, weights in blocks.items()
    ]
    return known(pairs, names)


def _changed(side: Side, split: Split, success: Sequence[Success]) -> tuple[Side, SplitChange]:
    arms = tuple(
        msgspec.structs.replace(arm, weight=weight)
        for arm, weight in zip(side.arms, split.weights, strict=True)
    )
    changed = msgspec.structs.replace(side, arms=arms, changes=side.changes + 1)
    names = [arm.version for arm in arms]
    return changed, SplitChange(
        changed.weights,
        dict(zip(names, split.best, strict=True)),
        {name: round(one.count, 1) for name, one in zip(names, success, strict=True)},
        {name: one.mean for name, one in zip(names, success, strict=True)},
    )
