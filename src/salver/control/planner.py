"""From what is wanted and what is seen to the next plan. A pure function.

A version is loaded first, routed when its workers report it ready, and let go only after every
live gateway has acknowledged a plan that does not route it. What was routed stays routed until
something better is ready, so that a failed load or a restart of control disturbs nothing.
"""

from collections.abc import Sequence

import msgspec

from salver.control.desired import WAITING, Desired, Observed
from salver.control.hosts import failure, placement, quarantine, ready_workers
from salver.control.loads import AddressOf, means_of, policy_of, retain, wanted_loads, workers_of
from salver.core.context import DEFAULT_TENANT
from salver.core.routing import FULL, PRIMARY
from salver.wire.messages import (
    EndpointPlan,
    Plan,
    VariantPlan,
)


def next_plan(
    desired: Sequence[Desired],
    observed: Observed,
    previous: Plan,
    address_of: AddressOf,
    models: Sequence[str] = (),
    shared_workers: int = 1,
) -> Plan:
    """Return the plan that follows ``previous``; ``numbered`` gives it its number.

    ``desired`` are as ``placed`` returns them. ``models`` are those that the data port may load;
    gateways are told of the ones that no endpoint is named after.
    """
    wanted = [item for item in desired if item.version is not None]
    before = {endpoint.name: endpoint for endpoint in previous.endpoints}
    slow = frozenset([worker.id for worker in previous.workers if worker.background])
    each = [one for item in wanted for one in item.each()]
    endpoints = tuple(
        _endpoint(item, before.get(item.spec.name), observed, previous.number + 1, slow)
        for item in desired
    )
    loads = wanted_loads(each, observed, shared_workers)
    retain(loads, endpoints, observed, previous)
    workers = workers_of(loads, means_of(each, observed, previous), address_of)
    names = {endpoint.name for endpoint in endpoints}
    unloaded = tuple(model for model in models if model not in names)
    return Plan(previous.number, previous.created_unix_ms, endpoints, workers, unloaded)


def numbered(plan: Plan, number: int) -> Plan:
    """Give what ``next_plan`` returned its number, and that to the weight epochs that it begins.

    ``number`` is larger than that of any plan before, whoever made it, and so no epoch is used
    twice, also where another control has made plans that this one has not seen.
    """

    def begun(variant: VariantPlan) -> VariantPlan:
        if variant.weight_epoch <= plan.number:
            return variant
        return msgspec.structs.replace(variant, weight_epoch=number)

    endpoints = tuple(
        msgspec.structs.replace(
            endpoint, variants=tuple(begun(variant) for variant in endpoint.variants)
        )
        for endpoint in plan.endpoints
    )
    return msgspec.structs.replace(plan, number=number, endpoints=endpoints)


def same(left: Plan, right: Plan) -> bool:
    """Tell whether two plans ask for the same, whatever their numbers."""
    return (left.endpoints, left.workers, left.unloaded) == (
        right.endpoints,
        right.workers,
        right.unloaded,
    )


def _endpoint(
    item: Desired,
    before: EndpointPlan | None,
    observed: Observed,
    epoch: int,
    slow: frozenset[str],
) -> EndpointPlan:
    """Return what gateways are to know; ``slow`` are the workers in the background until now."""
    spec = item.spec
    all_routed = before.variants if before is not None else ()
    routed = _serving(all_routed, item.each(), slow)
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
        _since(variants, all_routed if same_split else (), epoch),
        DEFAULT_TENANT,
        spec.validation,
        item.timeout_s,
        reason,
        spec.cache,
        spec.routing,
        spec.routing.headers,
        item.salt,
        item.evidence,
        item.captures,
        item.count,
        item.floor,
    )


def _serving(
    routed: tuple[VariantPlan, ...], wanted: Sequence[Desired], slow: frozenset[str]
) -> tuple[VariantPlan, ...]:
    """Return what was routed, less what only got copies in the background and now is waited for."""
    awaited = {
        one.version.id
        for one in wanted
        if one.version is not None and not one.place.hosting.background
    }
    return tuple(
        variant
        for variant in routed
        if variant.id not in awaited or not slow.issuperset(variant.workers) or not variant.workers
    )


def _with_arms(
    primary: VariantPlan, item: Desired, routed: tuple[VariantPlan, ...], observed: Observed
) -> tuple[VariantPlan, ...]:
    """Return the primary variant and those of the arms that can answer; it gets what they do not.

    An arm that was routed before stays, as the primary one does.
    """
    arms: list[VariantPlan] = []
    left = FULL
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

    Its number is larger than any in the plan before, and ``numbered`` makes it the new plan's, so
    that what is counted in two epochs is never added up.
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
        FULL,
        0,
        version.manifest.signature,
        _routable(item, known, observed),
        policy_of(item),
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
