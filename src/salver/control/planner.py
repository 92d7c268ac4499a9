"""From what is wanted and what is seen to the next plan. A pure function.

A version is loaded first, routed when its workers report it ready, and let go only after every
live gateway has acknowledged a plan that does not route it. What was routed stays routed until
something better is ready, so that a failed load or a restart of control disturbs nothing.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from salver.control.placement import (
    Place,
    Wish,
    execution,
    has_own,
    own_name,
    places_of,
    runs_code,
    tag,
)
from salver.core.context import DEFAULT_TENANT
from salver.core.hosting import NO_LIMITS, Execution, Limits
from salver.core.steps import stepped
from salver.registry.records import EndpointSpec, VersionRecord
from salver.wire.messages import (
    ANSWERING_STATES,
    BatchPolicy,
    EndpointPlan,
    FileRef,
    Load,
    Plan,
    VariantPlan,
    VariantState,
    WorkerPlan,
    routes,
)

SHARED, DEDICATED, QUARANTINE = "shared", "dedicated", "quarantine"
QUARANTINE_ID = "quarantine-0"
LOCAL_SOURCE = "local"
_ALL_TRAFFIC = 10_000
PRIMARY, CANARY, SHADOW, PREVIOUS, ARM = "primary", "canary", "shadow", "previous", "arm"
WAITING = "waiting"
_SUCCESSOR = "."


class Arm(msgspec.Struct, frozen=True):
    """A version that an endpoint wants beside its primary one.

    ``weight`` is its part of the traffic, and ``sample`` the part of which it gets a copy, both in
    basis points. One with neither is only kept in memory; one whose role is ``WAITING`` is loaded
    and hidden from gateways. ``pinned`` stays in memory where a budget sends others away; one that
    is ``alone`` gets a worker of its own, so that it takes no turns from the primary one.
    """

    version: VersionRecord
    role: str
    weight: int = 0
    sample: int = 0
    size_hint_bytes: int = 0
    pinned: bool = False
    size_bytes: int = 0
    alone: bool = False


class Desired(msgspec.Struct, frozen=True):
    """An endpoint that is wanted, with the version it means now, which is its primary one.

    ``version`` is None when that cannot be resolved, and ``problem`` says why. ``size_hint_bytes``
    is what it took in a worker with a memory budget, 0 before one has loaded it; ``size_bytes`` is
    the same also without budgets. ``salt`` says which callers come first to the arms, ``evidence``
    what gateways count of them, and ``captures`` whether they look at answers for it. ``replicas``
    is what autoscaling made of those that were asked for, None where it has no say. ``places`` are
    those of the versions, by their ids. ``idle_s`` is when it leaves if nobody asks, 0 for never.
    """

    spec: EndpointSpec
    version: VersionRecord | None
    problem: str = ""
    size_hint_bytes: int = 0
    salt: str = ""
    evidence: bytes = b""
    captures: bool = False
    arms: tuple[Arm, ...] = ()
    replicas: int | None = None
    size_bytes: int = 0
    places: Mapping[str, Place] = {}
    idle_s: float = 0.0

    @property
    def place(self) -> Place:
        """Where the version is, and how it is run."""
        found = self.places.get(self.version.id) if self.version is not None else None
        return found or Place(self.spec.hosting)

    def each(self) -> "list[Desired]":
        """Return one wish for each version, the primary one first, without arms."""
        own = msgspec.structs.replace(self, arms=())
        return [own] + [
            msgspec.structs.replace(
                own,
                spec=_spec_of(self.spec, arm),
                version=arm.version,
                size_hint_bytes=arm.size_hint_bytes,
                size_bytes=arm.size_bytes,
                replicas=1 if arm.alone else self.replicas,
            )
            for arm in self.arms
        ]

    @property
    def count(self) -> int:
        """How many workers shall answer."""
        return self.spec.replicas if self.replicas is None else self.replicas


def _spec_of(spec: EndpointSpec, arm: Arm) -> EndpointSpec:
    """Return what an endpoint wants of an arm."""
    hosting = spec.hosting
    if arm.alone:
        hosting = msgspec.structs.replace(hosting, kind=DEDICATED)
    return msgspec.structs.replace(spec, pinned=spec.pinned or arm.pinned, hosting=hosting)


class Observed(msgspec.Struct, frozen=True):
    """What the processes have reported.

    ``workers``: each connected worker's variants. ``acknowledged``: the oldest plan number that a
    live gateway acts on, None when none is connected. ``successions`` counts for shared workers
    how often each was replaced. ``asleep`` are workers and versions of theirs that can be asked
    although no process runs.
    """

    workers: Mapping[str, Mapping[str, VariantState]]
    acknowledged: int | None
    successions: Mapping[str, int] = {}
    asleep: Collection[tuple[str, str]] = ()


def next_plan(
    desired: Sequence[Desired],
    observed: Observed,
    previous: Plan,
    address_of: "AddressOf",
    models: Sequence[str] = (),
    shared_workers: int = 1,
) -> Plan:
    """Return the plan that follows ``previous``; its number is left for the caller to set.

    ``desired`` are as ``placed`` returns them. ``models`` are those that the data port may load;
    gateways are told of the ones that no endpoint is named after.
    """
    wanted = [item for item in desired if item.version is not None]
    before = {endpoint.name: endpoint for endpoint in previous.endpoints}
    each = [one for item in wanted for one in item.each()]
    endpoints = tuple(
        _endpoint(item, before.get(item.spec.name), observed, previous.number + 1)
        for item in desired
    )
    loads = _wanted_loads(each, observed, shared_workers)
    _retain(loads, endpoints, observed, previous)
    workers = _workers(loads, _limits(each, observed, previous), address_of)
    names = {endpoint.name for endpoint in endpoints}
    unloaded = tuple(model for model in models if model not in names)
    return Plan(previous.number, previous.created_unix_ms, endpoints, workers, unloaded)


class AddressOf:
    """Where workers listen: sockets in one folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, worker: str) -> str:
        """Return a worker's address."""
        return f"unix:{self._folder}/worker-{worker}.sock"


def same(left: Plan, right: Plan) -> bool:
    """Tell whether two plans ask for the same, whatever their numbers."""
    return (left.endpoints, left.workers, left.unloaded) == (
        right.endpoints,
        right.workers,
        right.unloaded,
    )


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
        name: max(numbers) + (len(numbers) == 1 and _shared(name, numbers[0]) in worn)
        for name, numbers in present.items()
    }


def _shared(name: str, succession: int) -> str:
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
        own = own_name(version) + tag(place.hosting.limits, execution(version, place.hosting))
        return tuple(f"{DEDICATED}-{own}-{index}" for index in range(item.count))
    start = place.start(item.count)
    names = (f"{SHARED}-{index}" for index in range(start, start + item.count))
    return tuple(_shared(name, observed.successions.get(name, 0)) for name in names)


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


def _endpoint(
    item: Desired, before: EndpointPlan | None, observed: Observed, epoch: int
) -> EndpointPlan:
    spec = item.spec
    routed = before.variants if before is not None else ()
    reason = item.problem
    variants = tuple(variant for variant in routed if variant.role == PRIMARY)
    if item.version is not None:
        if _may_route(item, routed, observed):
            variants, reason = (_variant(item, routed, observed),), ""
        else:
            failed = failure(item, observed)
            reason = failed.error if failed is not None else f"{item.version.id} is loading"
    if variants:
        variants = _with_arms(variants[0], item, routed, observed)
    same_split = before is not None and (before.salt, before.evidence) == (item.salt, item.evidence)
    return EndpointPlan(
        spec.name,
        _since(variants, routed if same_split else (), epoch),
        DEFAULT_TENANT,
        spec.validation,
        spec.timeout_s,
        reason,
        spec.cache,
        spec.routing,
        spec.routing.headers,
        item.salt,
        item.evidence,
        item.captures,
        item.count,
    )


def _with_arms(
    primary: VariantPlan, item: Desired, routed: tuple[VariantPlan, ...], observed: Observed
) -> tuple[VariantPlan, ...]:
    """Return the primary variant and those of the arms that can answer; it gets what they do not.

    An arm that was routed before stays, as the primary one does.
    """
    arms: list[VariantPlan] = []
    left = _ALL_TRAFFIC
    for arm, wanted in zip(item.arms, item.each()[1:], strict=True):
        if arm.role == WAITING or arm.version.id == primary.id:
            continue
        if _may_route(wanted, routed, observed, is_first=False):
            variant = _variant(wanted, routed, observed)
            weight = min(arm.weight, left)
            left -= weight
            arms.append(
                msgspec.structs.replace(variant, role=arm.role, weight=weight, sample=arm.sample)
            )
    return (msgspec.structs.replace(primary, weight=left), *arms)


def _since(
    variants: tuple[VariantPlan, ...], routed: tuple[VariantPlan, ...], epoch: int
) -> tuple[VariantPlan, ...]:
    """Begin a new weight epoch for all variants when who gets how much, or its count, has changed.

    Its number is larger than any that this installation has used, so that what is counted in
    two epochs is never added up.
    """

    def shares(all_variants: tuple[VariantPlan, ...]) -> list[tuple[str, str, int, int]]:
        return [(each.id, each.role, each.weight, each.sample) for each in all_variants]

    if routed and shares(variants) == shares(routed):
        epoch = routed[0].weight_epoch
    return tuple(msgspec.structs.replace(variant, weight_epoch=epoch) for variant in variants)


def _may_route(
    item: Desired,
    routed: tuple[VariantPlan, ...],
    observed: Observed,
    *,
    is_first: bool = True,
) -> bool:
    version = item.version
    assert version is not None
    if any(variant.id == version.id for variant in routed):
        return True
    ready = ready_workers(item, observed)
    if is_first and not routed:
        return bool(ready)
    connected = [worker for worker in placement(item, observed) if worker in observed.workers]
    return bool(ready) and len(ready) == len(connected)


def _variant(item: Desired, routed: tuple[VariantPlan, ...], observed: Observed) -> VariantPlan:
    version = item.version
    assert version is not None
    known = next((variant for variant in routed if variant.id == version.id), None)
    return VariantPlan(
        version.id,
        PRIMARY,
        version.model,
        str(version.version),
        version.digest,
        version.manifest.runtime,
        _ALL_TRAFFIC,
        0,
        version.manifest.signature,
        _routable(item, known, observed),
        _policy(item),
        quarantine(item),
    )


def _routable(item: Desired, known: VariantPlan | None, observed: Observed) -> tuple[str, ...]:
    """Return the workers that get a version's requests.

    Those that got them before stay until all that shall get them are ready.
    """
    wanted = placement(item, observed)
    if known is None:
        return wanted
    ready = ready_workers(item, observed)
    if len(ready) == len(wanted):
        return wanted
    return (*known.workers, *(worker for worker in ready if worker not in known.workers))


def _policy(item: Desired) -> BatchPolicy:
    version, spec = item.version, item.spec
    assert version is not None
    allowed = version.manifest.max_batch_size
    # A version that must not be batched stays so, whatever the endpoint asks for.
    rows = 1 if allowed == 1 else spec.max_batch_size or allowed
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
        _policy(item),
        trust_pickle=manifest.trust_pickle,
        trust_code=manifest.trust_code,
        steps=manifest.steps,
        pinned=item.spec.pinned,
        size_hint_bytes=item.size_hint_bytes,
        execution=execution(version, item.place.hosting),
        golden=manifest.golden if item.spec.warm_up else "",
        idle_s=item.idle_s,
    )


def _wanted_loads(
    wanted: list[Desired], observed: Observed, shared_workers: int
) -> dict[str, dict[str, Load]]:
    """Return the loads of each worker; the shared ones are always there, for a quick start."""
    loads: dict[str, dict[str, Load]] = {}
    for name in [f"{SHARED}-{index}" for index in range(shared_workers)]:
        loads[_shared(name, observed.successions.get(name, 0))] = {}
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


def _retain(
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


def _limits(
    wanted: list[Desired], observed: Observed, previous: Plan
) -> dict[str, tuple[Limits, int]]:
    """Return limits and threads of the workers that have some; those of a worker never change."""
    limits = {worker.id: (worker.limits, worker.threads) for worker in previous.workers}
    for item in wanted:
        hosting = item.place.hosting
        own = (hosting.limits, hosting.execution.threads)
        limits[quarantine(item)] = (hosting.limits, 0)
        for worker in placement(item, observed):
            limits[worker] = own if worker.startswith(DEDICATED) else (NO_LIMITS, 0)
    return limits


def _workers(
    loads: dict[str, dict[str, Load]],
    limits: dict[str, tuple[Limits, int]],
    address_of: AddressOf,
) -> tuple[WorkerPlan, ...]:
    return tuple(
        _worker(worker, tuple(loads[worker].values()), limits, address_of)
        for worker in sorted(loads)
    )


def _worker(
    worker: str,
    loads: tuple[Load, ...],
    limits: dict[str, tuple[Limits, int]],
    address_of: AddressOf,
) -> WorkerPlan:
    kind = worker.split("-", 1)[0]
    is_own = kind != SHARED and worker != QUARANTINE_ID
    on_demand = is_own and all(load.idle_s > 0 for load in loads)
    own_limits, threads = limits.get(worker, (NO_LIMITS, 0))
    return WorkerPlan(worker, kind, address_of(worker), loads, own_limits, threads, on_demand)
