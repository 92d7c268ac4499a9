"""From what is wanted and what is seen to the next plan. A pure function.

A version is loaded first, routed when its workers report it ready, and let go only after every
live gateway has acknowledged a plan that does not route it. What was routed stays routed until
something better is ready, so that a failed load or a restart of control disturbs nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256

import msgspec

from salver.core.context import DEFAULT_TENANT
from salver.core.steps import stepped
from salver.registry.records import EndpointSpec, VersionRecord
from salver.runtimes.table import is_code, is_stream
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
)

SHARED, DEDICATED, QUARANTINE = "shared", "dedicated", "quarantine"
QUARANTINE_ID = "quarantine-0"
LOCAL_SOURCE = "local"
_ALL_TRAFFIC = 10_000
PRIMARY, CANARY, SHADOW, PREVIOUS, ARM = "primary", "canary", "shadow", "previous", "arm"
WAITING = "waiting"
_LONG_NAME, _KEPT_NAME, _DIGEST = 32, 15, 16
_SUCCESSOR = "."


class Arm(msgspec.Struct, frozen=True):
    """A version that an endpoint wants beside its primary one.

    ``weight`` is its part of the traffic, and ``sample`` the part of which it gets a copy, both in
    basis points. One with neither is only kept in memory; one whose role is ``WAITING`` is loaded
    and hidden from gateways. ``pinned`` stays in memory where a budget sends others away.
    """

    version: VersionRecord
    role: str
    weight: int = 0
    sample: int = 0
    size_hint_bytes: int = 0
    pinned: bool = False


class Desired(msgspec.Struct, frozen=True):
    """An endpoint that is wanted, with the version it means now, which is its primary one.

    ``version`` is None when that cannot be resolved, and ``problem`` says why. ``size_hint_bytes``
    is what it took in a worker with a memory budget, 0 before one has loaded it. ``salt`` says
    which callers come first to the arms, ``evidence`` what gateways count of them, and
    ``captures`` whether they look at answers for it. ``replicas`` is
    what autoscaling made of those that were asked for, None where it has no say.
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

    def each(self) -> "list[Desired]":
        """Return one wish for each version, the primary one first, without arms."""
        own = msgspec.structs.replace(self, arms=())
        return [own] + [
            msgspec.structs.replace(
                own,
                spec=msgspec.structs.replace(self.spec, pinned=self.spec.pinned or arm.pinned),
                version=arm.version,
                size_hint_bytes=arm.size_hint_bytes,
            )
            for arm in self.arms
        ]

    @property
    def count(self) -> int:
        """How many workers shall answer."""
        return self.spec.replicas if self.replicas is None else self.replicas


class Observed(msgspec.Struct, frozen=True):
    """What the processes have reported.

    ``workers``: each connected worker's variants. ``acknowledged``: the oldest plan number that a
    live gateway acts on, None when none is connected. ``successions`` counts for shared workers
    how often each was replaced.
    """

    workers: Mapping[str, Mapping[str, VariantState]]
    acknowledged: int | None
    successions: Mapping[str, int] = {}


def next_plan(
    desired: Sequence[Desired],
    observed: Observed,
    previous: Plan,
    address_of: "AddressOf",
    models: Sequence[str] = (),
) -> Plan:
    """Return the plan that follows ``previous``; its number is left for the caller to set.

    ``models`` are those that the data port may load; gateways are told of the ones that no
    endpoint is named after.
    """
    wanted = [item for item in desired if item.version is not None]
    before = {endpoint.name: endpoint for endpoint in previous.endpoints}
    endpoints = tuple(
        _endpoint(item, before.get(item.spec.name), observed, previous.number + 1)
        for item in desired
    )
    loads = _wanted_loads([one for item in wanted for one in item.each()], observed)
    _retain(loads, endpoints, observed, previous)
    workers = _workers(loads, address_of)
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


def placement(item: Desired, observed: Observed) -> tuple[str, ...]:
    """Return the ids of the workers that shall host a version."""
    version = item.version
    assert version is not None
    if _runs_code(version) or is_stream(version.manifest.runtime):
        own = _own(version)
        return tuple(f"{DEDICATED}-{own}-{index}" for index in range(item.count))
    names = (f"{SHARED}-{index}" for index in range(item.count))
    return tuple(_shared(name, observed.successions.get(name, 0)) for name in names)


def quarantine(version: VersionRecord) -> str:
    """Return the id of the worker where a version's suspects run; code shares it with nobody."""
    return f"{QUARANTINE}-{_own(version)}" if _runs_code(version) else QUARANTINE_ID


def _runs_code(version: VersionRecord) -> bool:
    return version.manifest.trust_pickle or is_code(version.manifest.runtime)


def _own(version: VersionRecord) -> str:
    """Return what the names of a version's own workers have in common, short enough for a socket.

    The path of a Unix socket has room for about a hundred characters. A name as long as shortened
    ones are is shortened too, so that none can look like another's.
    """
    model = version.model
    if len(model) >= _LONG_NAME:
        model = f"{model[:_KEPT_NAME]}.{sha256(model.encode()).hexdigest()[:_DIGEST]}"
    return f"{model}-{version.version}"


def failure(item: Desired, observed: Observed) -> VariantState | None:
    """Return the report of a worker that could not load the wanted version, if there is one."""
    version = item.version
    if version is None:
        return None
    for worker in placement(item, observed):
        state = observed.workers.get(worker, {}).get(version.id)
        if state is not None and state.state == "failed":
            return state
    return None


def ready_workers(item: Desired, observed: Observed) -> list[str]:
    """Return the workers that can answer for the wanted version."""
    version = item.version
    if version is None:
        return []
    states = ((worker, observed.workers.get(worker, {})) for worker in placement(item, observed))
    return [
        worker
        for worker, variants in states
        if (state := variants.get(version.id)) is not None and state.state in ANSWERING_STATES
    ]


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
        quarantine(version),
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
    )


def _wanted_loads(wanted: list[Desired], observed: Observed) -> dict[str, dict[str, Load]]:
    """Return the loads of each worker; one shared worker is always there, for a quick start."""
    first = f"{SHARED}-0"
    loads: dict[str, dict[str, Load]] = {_shared(first, observed.successions.get(first, 0)): {}}
    for item in wanted:
        load = _load(item)
        for worker in placement(item, observed):
            others = loads.setdefault(worker, {})
            if load.variant not in others or load.pinned:
                others[load.variant] = load
        quarantined = msgspec.structs.replace(load, lazy=True)
        assert item.version is not None
        loads.setdefault(quarantine(item.version), {}).setdefault(load.variant, quarantined)
    return loads


def _retain(
    loads: dict[str, dict[str, Load]],
    endpoints: tuple[EndpointPlan, ...],
    observed: Observed,
    previous: Plan,
) -> None:
    """Keep what gateways may still route to."""
    routed = _routes(endpoints) | _routes(previous.endpoints)
    acknowledged = observed.acknowledged
    all_know = acknowledged is not None and acknowledged >= previous.number
    for worker in previous.workers:
        for load in worker.loads:
            needed = (worker.id, load.variant) in routed or not all_know
            if needed and load.variant not in loads.get(worker.id, {}):
                loads.setdefault(worker.id, {})[load.variant] = load


def _routes(endpoints: tuple[EndpointPlan, ...]) -> set[tuple[str, str]]:
    """Return which workers may be asked for which versions."""
    variants = [variant for endpoint in endpoints for variant in endpoint.variants]
    asked = {(worker, variant.id) for variant in variants for worker in variant.workers}
    return asked | {(v.quarantine, v.id) for v in variants if v.quarantine is not None}


def _workers(loads: dict[str, dict[str, Load]], address_of: AddressOf) -> tuple[WorkerPlan, ...]:
    return tuple(
        WorkerPlan(
            worker, worker.split("-", 1)[0], address_of(worker), tuple(loads[worker].values())
        )
        for worker in sorted(loads)
    )
