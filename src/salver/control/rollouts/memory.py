"""Whether versions fit into the memory of the shared workers that would have them.

Follows what a worker with a budget does (``engine/worker/residency.py``): each version must fit
beside all that is pinned there, in the room that the process itself leaves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from salver.control.desired import WAITING, Arm, Desired
from salver.control.hosts import placed
from salver.control.placement import has_own
from salver.core.errors import MemoryBudgetExceeded
from salver.core.routing import CANARY, PREVIOUS, SHADOW
from salver.core.settings import EngineSettings
from salver.engine.worker.budget import budget_of
from salver.observe.cgroup import cgroup_limit_bytes
from salver.registry.catalog import Catalog
from salver.registry.records import EndpointSpec, VersionRecord
from salver.wire.messages import Plan

_SUCCESSOR = "."


class Rehearsed(NamedTuple):
    """How a change that is only rehearsed leaves an endpoint; without a spec it is removed.

    ``kept`` are the versions that stay in memory beside the new one, None where those that were
    there stay.
    """

    spec: EndpointSpec | None = None
    version: VersionRecord | None = None
    kept: tuple[VersionRecord, ...] | None = None


Kept = Mapping[str, Rehearsed]


class Memory:
    """``wanted`` is called on the database's thread, ``plan`` and ``bases`` on any.

    ``bases`` are what workers take without their models, by id.
    """

    def __init__(
        self,
        catalog: Catalog,
        engine: EngineSettings,
        wanted: Callable[[], list[Desired]],
        plan: Callable[[], Plan],
        bases: Callable[[], Mapping[str, int]],
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self._wanted = wanted
        self._plan = plan
        self._bases = bases

    def check(
        self,
        spec: EndpointSpec,
        old: VersionRecord,
        news: Sequence[VersionRecord],
        role: str,
        kept: Kept | None = None,
    ) -> None:
        """Raise ``MemoryBudgetExceeded`` if something would not fit once ``news`` are there.

        That is one of them, the old version, or another that fits now; ``role`` and
        ``kept`` are as in ``Gates.check_version``. Without a budget everything fits.
        """
        plan, engine = self._plan(), self._engine
        budget_bytes = budget_of(plan, engine, cgroup_limit_bytes())
        if not budget_bytes:
            return
        wanted = list(_rehearsed(self._wanted(), kept or {}))
        concerned = {old.id, *[new.id for new in news]}
        after = [_changed(item, spec, old, news, role) for item in wanted]
        sizes = self._catalog.sizes()
        known = self._too_large(wanted, plan, sizes, budget_bytes)
        for variant, taken_bytes in self._too_large(after, plan, sizes, budget_bytes).items():
            if variant in concerned or variant not in known:
                raise MemoryBudgetExceeded(
                    f"{variant}, what else must stay in its worker's memory and the worker itself "
                    f"would take {taken_bytes} bytes, the budget is {budget_bytes}; raise "
                    "engine.memory_budget_bytes, or try with --force"
                )

    def _too_large(
        self,
        wanted: Sequence[Desired],
        plan: Plan,
        sizes: Mapping[str, int],
        budget_bytes: int,
    ) -> dict[str, int]:
        """Return the versions that do not fit beside what is pinned, and what would be taken."""
        hosted, pinned = _hosted(wanted, plan, sizes, max(1, self._engine.shared_workers))
        reported = self._bases()
        found: dict[str, int] = {}
        for number, own in hosted.items():
            base_bytes = _base(reported, number)
            reserved = sum([own[variant] for variant in pinned[number]])
            for variant, size_bytes in own.items():
                others = reserved - (size_bytes if variant in pinned[number] else 0)
                if base_bytes + others + size_bytes > budget_bytes:
                    found[variant] = base_bytes + others + size_bytes
        return found


def _rehearsed(wanted: Sequence[Desired], kept: Kept) -> Iterator[Desired]:
    """Yield what is wanted as rehearsed changes leave it."""
    known = {item.spec.name for item in wanted}
    for item in wanted:
        change = kept.get(item.spec.name)
        if change is None:
            yield item
        elif change.spec is not None and change.version is not None:
            yield _with(item, change.spec, change.version, change.kept)
    for name, change in kept.items():
        if name not in known and change.spec is not None and change.version is not None:
            yield Desired(change.spec, change.version)


def _with(
    item: Desired,
    spec: EndpointSpec,
    version: VersionRecord,
    kept: Sequence[VersionRecord] | None,
) -> Desired:
    """Return an endpoint with another version, beside what is ``kept`` or what was there."""
    arms = item.arms if kept is None else [Arm(one, PREVIOUS, pinned=True) for one in kept]
    others = tuple([arm for arm in arms if arm.version.id != version.id])
    return msgspec.structs.replace(item, spec=spec, version=version, arms=others)


def _changed(
    item: Desired,
    spec: EndpointSpec,
    old: VersionRecord,
    news: Sequence[VersionRecord],
    role: str,
) -> Desired:
    """Return what is wanted of an endpoint once it has other versions."""
    if item.spec.name != spec.name:
        return item
    if role == PREVIOUS:
        return _with(item, spec, news[0], (old,))
    arms = [
        Arm(new, WAITING, pinned=True, alone=role == SHADOW) for new in news if new.id != old.id
    ]
    ids = {arm.version.id for arm in arms}
    kept_arms = [arm for arm in item.arms if arm.version.id not in ids]
    if role == CANARY:
        # The primary answers meanwhile, and what cannot answer is not compared with anything.
        spec = msgspec.structs.replace(spec, pinned=True)
    return msgspec.structs.replace(item, spec=spec, version=old, arms=(*kept_arms, *arms))


def _hosted(
    wanted: Sequence[Desired], plan: Plan, sizes: Mapping[str, int], count: int
) -> tuple[dict[int, dict[str, int]], dict[int, set[str]]]:
    """Return the sizes of what each shared worker would have, and what is pinned there.

    What was measured counts, else what was when the version was examined.
    """
    hosted: dict[int, dict[str, int]] = {number: {} for number in range(count)}
    pinned: dict[int, set[str]] = {number: set() for number in range(count)}
    items = [_sized(item, sizes) for item in wanted]
    for one in [one for item in placed(items, plan, count) for one in item.each()]:
        version = one.version
        if version is None or has_own(version, one.place.hosting):
            continue
        start = one.place.start(one.count)
        manifest = version.manifest
        size_bytes = one.size_bytes or manifest.resident_bytes or manifest.size_bytes
        for number in range(start, min(start + one.count, count)):
            hosted[number][version.id] = size_bytes
            if one.spec.pinned:
                pinned[number].add(version.id)
    return hosted, pinned


def _sized(item: Desired, sizes: Mapping[str, int]) -> Desired:
    own = sizes.get(item.version.id, 0) if item.version is not None else 0
    arms = tuple(
        msgspec.structs.replace(arm, size_bytes=sizes.get(arm.version.id, 0)) for arm in item.arms
    )
    return msgspec.structs.replace(item, size_bytes=own, arms=arms)


def _base(reported: Mapping[str, int], number: int) -> int:
    """Return what a worker takes without models; of one that says nothing, what others take."""
    own = [size for worker, size in reported.items() if _number(worker) == number]
    return max(own or reported.values(), default=0)


def _number(worker: str) -> int:
    return int(worker.partition(_SUCCESSOR)[0].rpartition("-")[2])
