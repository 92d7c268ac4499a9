"""What each worker of a plan has to load, and how it is run."""

from typing import NamedTuple

import msgspec

from salver.control.desired import DEDICATED, QUARANTINE_ID, SHARED, Desired, Observed
from salver.control.hosts import placement, quarantine, shared_id
from salver.control.placement import (
    execution,
)
from salver.core.hosting import NO_LIMITS, Limits
from salver.core.steps import stepped
from salver.wire.messages import (
    BatchPolicy,
    EndpointPlan,
    FileRef,
    Load,
    Plan,
    WorkerPlan,
    routes,
)

LOCAL_SOURCE = "local"


class AddressOf:
    """Where workers listen: sockets in one folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, worker: str) -> str:
        """Return a worker's address."""
        return f"unix:{self._folder}/worker-{worker}.sock"


def policy_of(item: Desired) -> BatchPolicy:
    """Return how a version's requests are put together."""
    version, spec = item.version, item.spec
    assert version is not None
    allowed = version.manifest.max_batch_size
    # A version that must not be batched stays so, whatever the endpoint asks for.
    rows = 1 if allowed == 1 else spec.max_batch_size or allowed
    rows = min(rows, version.manifest.most_rows or rows)
    return BatchPolicy(
        rows,
        spec.max_queue_delay_ms,
        spec.max_queue or BatchPolicy().max_queue,
        spec.max_batch_tokens or 0,
        spec.priorities,
        spec.batching,
        spec.objective_ms,
        version.manifest.sequences,
        spec.max_padding,
    )


def _load(item: Desired) -> Load:
    version = item.version
    assert version is not None
    manifest = version.manifest
    return Load(
        version.id,
        version.digest,
        manifest.runtime if manifest.steps is None else stepped(manifest.runtime),
        tuple(FileRef(file.path, file.sha256, file.size_bytes) for file in manifest.files),
        LOCAL_SOURCE,
        manifest.signature,
        policy_of(item),
        trust_pickle=manifest.trust_pickle,
        trust_code=manifest.trust_code,
        steps=manifest.steps,
        pinned=item.spec.pinned,
        size_hint_bytes=item.size_hint_bytes,
        execution=execution(version, item.place.hosting),
        golden=manifest.golden if item.spec.warm_up else "",
        idle_s=item.idle_s,
    )


def wanted_loads(
    wanted: list[Desired], observed: Observed, shared_workers: int
) -> dict[str, dict[str, Load]]:
    """Return the loads of each worker; the shared ones are always there, for a quick start."""
    loads: dict[str, dict[str, Load]] = {}
    for name in [f"{SHARED}-{index}" for index in range(shared_workers)]:
        loads[shared_id(name, observed.successions.get(name, 0))] = {}
    for item in wanted:
        load = _load(item)
        for worker in placement(item, observed):
            others = loads.setdefault(worker, {})
            others[load.variant] = _for_both(load, others.get(load.variant))
        alone = msgspec.structs.replace(load.execution, instances=1)
        quarantined = msgspec.structs.replace(load, lazy=True, execution=alone)
        loads.setdefault(quarantine(item), {}).setdefault(load.variant, quarantined)
    return loads


def _for_both(load: Load, other: Load | None) -> Load:
    """Return the load of a version that several endpoints want: it stays where one wants that."""
    if other is None:
        return load
    chosen = load if load.pinned else other
    both_leave = load.idle_s > 0 and other.idle_s > 0
    idle_s = max(load.idle_s, other.idle_s) if both_leave else 0.0
    return msgspec.structs.replace(chosen, idle_s=idle_s)


def retain(
    loads: dict[str, dict[str, Load]],
    endpoints: tuple[EndpointPlan, ...],
    observed: Observed,
    previous: Plan,
) -> None:
    """Keep what gateways may still route to."""
    routed = routes(Plan(0, 0, endpoints)) | routes(previous)
    acknowledged = observed.acknowledged
    all_know = acknowledged is not None and acknowledged >= previous.number
    for worker in previous.workers:
        for load in worker.loads:
            needed = (worker.id, load.variant) in routed or not all_know
            if needed and load.variant not in loads.get(worker.id, {}):
                loads.setdefault(worker.id, {})[load.variant] = load


class Means(NamedTuple):
    """What a worker process may use, and whether it lets all others go first."""

    limits: Limits = NO_LIMITS
    threads: int = 0
    background: bool = False


def means_of(wanted: list[Desired], observed: Observed, previous: Plan) -> dict[str, Means]:
    """Return the means of the workers that have other than usual ones; a worker's never change."""
    means = {w.id: Means(w.limits, w.threads, w.background) for w in previous.workers}
    for item in wanted:
        hosting = item.place.hosting
        own = Means(hosting.limits, hosting.execution.threads, hosting.background)
        means[quarantine(item)] = Means(hosting.limits)
        for worker in placement(item, observed):
            means[worker] = own if worker.startswith(DEDICATED) else Means()
    return means


def workers_of(
    loads: dict[str, dict[str, Load]],
    means: dict[str, Means],
    address_of: AddressOf,
) -> tuple[WorkerPlan, ...]:
    """Return the workers that host these loads, by id."""
    return tuple(
        _worker(worker, tuple(loads[worker].values()), means.get(worker, Means()), address_of)
        for worker in sorted(loads)
    )


def _worker(
    worker: str,
    loads: tuple[Load, ...],
    means: Means,
    address_of: AddressOf,
) -> WorkerPlan:
    kind = worker.split("-", 1)[0]
    is_own = kind != SHARED and worker != QUARANTINE_ID
    on_demand = is_own and all(load.idle_s > 0 for load in loads)
    return WorkerPlan(
        worker,
        kind,
        address_of(worker),
        loads,
        means.limits,
        means.threads,
        on_demand,
        means.background,
    )
