"""Which workers host which versions, and which of them can answer."""

from collections.abc import Collection, Sequence

import msgspec

from salver.control.desired import DEDICATED, QUARANTINE, QUARANTINE_ID, SHARED, Desired, Observed
from salver.control.placement import (
    Wish,
    execution,
    has_own,
    own_name,
    places_of,
    runs_code,
    tag,
)
from salver.core.hosting import NO_LIMITS, Execution
from salver.wire.messages import (
    ANSWERING_STATES,
    Plan,
    VariantState,
    routes,
)

_SUCCESSOR = "."


def successions(plan: Plan, worn: Collection[str]) -> dict[str, int]:
    """Return how often each shared worker of a plan was or shall be replaced.

    Those that are ``worn`` get a successor, unless one is on its way already.
    """
    present: dict[str, list[int]] = {}
    for worker in plan.workers:
        if worker.kind == SHARED:
            name, _, number = worker.id.partition(_SUCCESSOR)
            present.setdefault(name, []).append(int(number or 0))
    return {
        name: max(numbers) + (len(numbers) == 1 and shared_id(name, numbers[0]) in worn)
        for name, numbers in present.items()
    }


def shared_id(name: str, succession: int) -> str:
    """Return the id of a shared worker that was replaced so often."""
    return f"{name}{_SUCCESSOR}{succession}" if succession else name


def placed(desired: Sequence[Desired], previous: Plan, shared_workers: int = 1) -> list[Desired]:
    """Return what is desired with the places of all its versions.

    Versions stay where the plan before has them. A version has one hosting, whatever several
    endpoints ask for.
    """
    found = [
        Wish(one.version, one.spec, one.size_bytes)
        for item in desired
        for one in item.each()
        if one.version is not None
    ]
    places = places_of(found, previous, shared_workers)
    return [msgspec.structs.replace(item, places=places) for item in desired]


def placement(item: Desired, observed: Observed) -> tuple[str, ...]:
    """Return the ids of the workers that shall host a version."""
    version, place = item.version, item.place
    assert version is not None
    if has_own(version, place.hosting):
        hosting = place.hosting
        run = execution(version, hosting)
        own = own_name(version) + tag(hosting.limits, run, background=hosting.background)
        return tuple(f"{DEDICATED}-{own}-{index}" for index in range(item.count))
    start = place.start(item.count)
    names = (f"{SHARED}-{index}" for index in range(start, start + item.count))
    return tuple(shared_id(name, observed.successions.get(name, 0)) for name in names)


def quarantine(item: Desired) -> str:
    """Return the id of the worker where a version's suspects run.

    Code shares it with nobody; limits hold there too, so that what needs a process of its own
    keeps it.
    """
    version, limits = item.version, item.place.hosting.limits
    assert version is not None
    if runs_code(version) or limits != NO_LIMITS:
        return f"{QUARANTINE}-{own_name(version)}{tag(limits, Execution())}"
    return QUARANTINE_ID


def failure(item: Desired, observed: Observed) -> VariantState | None:
    """Return the report of a worker that could not load the wanted version, if there is one."""
    version = item.version
    if version is None:
        return None
    for worker in placement(item, observed):
        state = observed.workers.get(worker, {}).get(version.id)
        has_failed = state is not None and (state.state == "failed" or _is_unchanged(state))
        if state is not None and has_failed and is_tried(item, state):
            return state
    return None


def _is_unchanged(state: VariantState) -> bool:
    """Tell whether a version serves as before because it could not be changed."""
    return state.state == "ready" and bool(state.code)


def is_tried(item: Desired, state: VariantState) -> bool:
    """Tell whether a worker has tried what is wanted now; old ones do not say what they tried."""
    version = item.version
    return version is not None and state.execution in (
        None,
        execution(version, item.place.hosting),
    )


def ready_workers(item: Desired, observed: Observed) -> list[str]:
    """Return the workers that can answer for the wanted version."""
    version = item.version
    if version is None:
        return []
    return [
        worker
        for worker in placement(item, observed)
        if _can_answer(observed.workers.get(worker, {}).get(version.id))
        or (worker, version.id) in observed.asleep
    ]


def asleep(plan: Plan, workers: Collection[str]) -> frozenset[tuple[str, str]]:
    """Return what can be asked of on-demand workers that are not among the connected ones.

    Only what a plan routes: a version is routed once it has been loaded.
    """
    absent = {w.id for w in plan.workers if w.on_demand and w.id not in workers}
    return frozenset([route for route in routes(plan) if route[0] in absent])


def _can_answer(state: VariantState | None) -> bool:
    return state is not None and state.state in ANSWERING_STATES
