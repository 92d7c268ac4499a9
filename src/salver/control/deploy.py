"""Endpoints: what is wanted of them, how they are, and waiting until they answer."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from salver.control.admission import Admission, Refusal, Step
from salver.control.database import DatabaseThread
from salver.control.desired import Desired, Observed
from salver.control.hosts import failure, ready_workers
from salver.control.hub import GATEWAY, Hub
from salver.control.in_force import providers, up_to_date_workers
from salver.control.placement import has_own
from salver.control.reconcile import Reconciler
from salver.control.rollouts.placing import NOBODY, Placing
from salver.core.errors import (
    DeadlineExceeded,
    EndpointNotFound,
    LoadFailed,
    SalverError,
    from_code,
)
from salver.core.hosting import DEDICATED, SHARED
from salver.core.names import ModelReference, parse_reference
from salver.registry.catalog import Catalog
from salver.registry.records import EndpointSpec
from salver.registry.state import StateStore
from salver.wire.messages import ANSWERING_STATES


class Deployer:
    """Changes and describes endpoints."""

    def __init__(
        self,
        reconciler: Reconciler,
        hub: Hub,
        catalog: Catalog,
        state: StateStore,
        database: DatabaseThread,
        placing: Placing,
        http_url: str,
    ) -> None:
        self._reconciler = reconciler
        self._hub = hub
        self._catalog = catalog
        self._state = state
        self._database = database
        self._placing = placing
        self._http_url = http_url
        self._admission = Admission(reconciler, catalog, state, placing)

    async def put(
        self, spec: EndpointSpec, model: str, *, force: bool = False, by: str = NOBODY
    ) -> EndpointSpec:
        """Want an endpoint; a bare model name pins its newest version. ``by`` is who wants it.

        Raises ``ModelNotFound``, ``VersionNotFound``, ``AliasNotFound``, ``InvalidRequest``,
        ``WorkerLimit``, ``HostingRefused``, ``Conflict`` where another endpoint has its version
        hosted otherwise, and what the gates refuse with: ``EndpointFrozen``, ``RolloutActive``,
        ``SideActive``, ``ApprovalMissing``, and unless it is forced ``SignatureChanged``,
        ``VersionRolledBack`` and ``MemoryBudgetExceeded``. Also ``WebhookNotAllowed``.
        """
        self._admission.check(spec)
        reference = parse_reference(model)
        spec = await self._database(lambda: self._pin(spec, reference, force=force, by=by))
        self._reconciler.wake()
        return spec

    async def refusals(
        self, specs: Sequence[EndpointSpec], steps: Sequence[Step], by: str
    ) -> list[Refusal]:
        """Return all that stands against these endpoints, and against doing these steps in order.

        Nothing is changed.
        """
        serving = self._serving()
        found = self._admission.refusals(specs)
        return found + await self._database(lambda: self._admission.rehearse(steps, serving, by))

    async def ensure(self, name: str) -> tuple[EndpointSpec, bool]:
        """Want an endpoint as it is wanted already, else the newest version of this name's model.

        Returns it and whether it is new; raises ``ModelNotFound``.
        """

        def work() -> tuple[EndpointSpec, bool]:
            known = self._state.endpoint(name)
            if known is not None:
                return known, False
            return self._pin(EndpointSpec(name, name), ModelReference(name)), True

        spec, is_new = await self._database(work)
        if is_new:
            self._reconciler.wake()
        return spec, is_new

    async def remove(self, name: str, *, force: bool = False) -> EndpointSpec:
        """Want an endpoint no more and return what it was.

        Raises ``EndpointNotFound``, ``EndpointFrozen``, ``RolloutActive``, ``SideActive``, and
        unless it is forced ``ApprovalMissing`` for one that demands approvals.
        """
        spec = await self._database(lambda: self._placing.remove(name, force=force))
        self._reconciler.wake()
        return spec

    async def move_alias(
        self, model: str, alias: str, version: int, *, force: bool, by: str = NOBODY
    ) -> list[str]:
        """Point an alias to a version; endpoints that follow it change over or begin a rollout.

        Returns which endpoints stay all the same, and why: forced is the alias, no rollout.
        Raises ``ModelNotFound``, ``VersionNotFound``, and what the gates of those endpoints refuse
        with; the alias stays then.
        """
        serving = self._serving()
        stay = await self._database(
            lambda: self._placing.move_alias(model, alias, version, serving, force=force, by=by)
        )
        self._reconciler.wake()
        return stay

    async def delete_alias(self, model: str, alias: str) -> None:
        """Remove an alias.

        Raises ``AliasNotFound``, ``EndpointFrozen`` for an endpoint that follows it, and
        ``RolloutActive`` or ``SideActive`` for one that does so without a rollout policy.
        """
        await self._database(lambda: self._placing.delete_alias(model, alias))
        self._reconciler.wake()

    async def wait(self, spec: EndpointSpec, timeout_s: float) -> None:
        """Return when every live gateway routes the endpoint to what is wanted.

        Raises the error that loading failed with, or ``DeadlineExceeded``.
        """
        outcome: list[SalverError | None] = []

        def settled() -> bool:
            result = self._settled(spec)
            if result is not _PENDING:
                outcome.append(result if isinstance(result, SalverError) else None)
            return bool(outcome)

        if not await self._reconciler.wait_for(settled, timeout_s):
            described = self._describe_one(spec.name)
            raise DeadlineExceeded(
                f"endpoint {spec.name!r} does not answer after {timeout_s:g} s: "
                f"{described.get('reason') or described['state']}; see 'salver logs'"
            )
        if outcome[0] is not None:
            raise outcome[0]

    async def wait_gone(self, spec: EndpointSpec, timeout_s: float) -> None:
        """Return when no live gateway routes to a removed endpoint, or somebody wants it anew.

        Raises ``DeadlineExceeded``.
        """

        def gone() -> bool:
            wanted = next((d for d in self._reconciler.desired if d.spec.name == spec.name), None)
            if wanted is not None:
                return wanted.spec.generation > spec.generation
            planned = (endpoint.name for endpoint in self._reconciler.plan.endpoints)
            return spec.name not in planned and self._is_known()

        if not await self._reconciler.wait_for(gone, timeout_s):
            raise DeadlineExceeded(
                f"endpoint {spec.name!r} is not gone everywhere after {timeout_s:g} s; see "
                "'salver status'"
            )

    async def wait_unrouted(
        self, endpoint: str, variant: str, timeout_s: float, is_moot: Callable[[], bool]
    ) -> None:
        """Return when no live gateway sends an endpoint's requests, or copies, to a version.

        What was decided must be stored already. Also returns when ``is_moot`` says that something
        else was decided since. Raises ``DeadlineExceeded``.
        """
        # A round that goes on may have read what was wanted before.
        known = self._reconciler.begun

        def left() -> bool:
            if is_moot():
                return True
            used = {one["id"] for one in self._variants(endpoint) if one["weight"] or one["sample"]}
            return self._reconciler.begun > known and variant not in used and self._has_arrived()

        if not await self._reconciler.wait_for(left, timeout_s):
            raise DeadlineExceeded(
                f"what was decided is written down, but after {timeout_s:g} s requests of endpoint "
                f"{endpoint!r} may still go to {variant}; see 'salver status'"
            )

    def describe(self) -> list[dict[str, Any]]:
        """Return every endpoint as the API shows it."""
        observed = self._reconciler.observed()
        return [self._describe(item, observed) for item in self._reconciler.desired]

    def _describe_one(self, name: str) -> dict[str, Any]:
        for item in self._reconciler.desired:
            if item.spec.name == name:
                return self._describe(item, self._reconciler.observed())
        raise EndpointNotFound(f"no endpoint {name!r}; see 'salver get endpoints'")

    def one(self, name: str) -> dict[str, Any]:
        """Return one endpoint as the API shows it; raises ``EndpointNotFound``."""
        return self._describe_one(name)

    def _pin(
        self,
        spec: EndpointSpec,
        reference: ModelReference,
        *,
        force: bool = False,
        by: str = NOBODY,
    ) -> EndpointSpec:
        wanted, record = self._admission.resolved(spec, reference, self._state.endpoints())
        return self._placing.put(wanted, record, self._serving(), force=force, by=by)

    def _serving(self) -> set[str]:
        """Return the names of endpoints that answer, each with what they answer with."""
        return {
            f"{plan.name} {plan.variants[0].id}"
            for plan in self._reconciler.plan.endpoints
            if plan.variants
        }

    def _settled(self, spec: EndpointSpec) -> object:
        """Return None when the endpoint answers, an error when it cannot, or ``_PENDING``."""
        item = next((d for d in self._reconciler.desired if d.spec.name == spec.name), None)
        if item is None or item.spec.generation < spec.generation:
            return _PENDING
        if item.version is None:
            return LoadFailed(item.problem)
        observed = self._reconciler.observed()
        failed = failure(item, observed)
        if failed is not None:
            return from_code(failed.code, f"{item.version.id} could not be loaded: {failed.error}")
        routed = self._routed(spec.name)
        ready = up_to_date_workers(item, observed)
        # What a burst brings besides is not waited for.
        needed = min(item.count, spec.replicas)
        if self._is_known() and routed == item.version.id and len(ready) >= needed:
            return None
        return _PENDING

    def _is_known(self) -> bool:
        """Tell whether every live gateway, and at least one, acts on the plan."""
        return bool(self._hub.peers(GATEWAY)) and self._has_arrived()

    def _has_arrived(self) -> bool:
        """Tell whether every live gateway acts on the plan."""
        number = self._reconciler.plan.number
        return all(gateway.acknowledged >= number for gateway in self._hub.peers(GATEWAY))

    def _scaling(self, spec: EndpointSpec) -> dict[str, Any]:
        """Return the bounds of an endpoint's replicas, and what was decided between them."""
        known = self._reconciler.scaler.scalings.get(spec.name)
        bounds = {"min_replicas": spec.min_replicas, "max_replicas": spec.max_replicas}
        if known is None:
            return {**bounds, "scaling": None}
        policy = self._reconciler.scaler.rules.policy(spec)
        decided = {
            "on": policy.metric,
            "target": spec.scale_target,
            "down_delay_s": policy.delay_s,
            "panic": known.panics,
            "reason": known.reason,
        }
        return {**bounds, "scaling": decided}

    def _routed(self, name: str) -> str:
        variants = self._variants(name)
        return variants[0]["id"] if variants else ""

    def _variants(self, name: str) -> list[dict[str, Any]]:
        """Return the variants that gateways are told of, the primary one first."""
        return [
            {
                "id": variant.id,
                "role": variant.role,
                "weight": variant.weight,
                "sample": variant.sample,
                "weight_epoch": variant.weight_epoch,
            }
            for endpoint in self._reconciler.plan.endpoints
            if endpoint.name == name
            for variant in endpoint.variants
        ]

    def _answers(self, name: str, observed: Observed) -> bool:
        """Tell whether a worker answers that gets an endpoint's requests, if not for long."""
        return any(
            (state := observed.workers.get(worker, {}).get(variant.id)) is not None
            and state.state in ANSWERING_STATES
            for endpoint in self._reconciler.plan.endpoints
            if endpoint.name == name
            for variant in endpoint.variants
            for worker in variant.workers
        )

    def _describe(self, item: Desired, observed: Observed) -> dict[str, Any]:
        spec, version = item.spec, item.version
        ready = ready_workers(item, observed)
        routed = self._routed(spec.name)
        answers = bool(ready) or self._answers(spec.name, observed)
        serving = version is not None and routed == version.id and answers
        failed = failure(item, observed)
        reason = item.problem or (failed.error if failed is not None else "")
        state = "ready" if serving else ("failed" if reason else "loading")
        return {
            "name": spec.name,
            "model": spec.model,
            "version": version.version if version is not None else spec.version,
            "alias": spec.alias,
            "state": state,
            "serving": routed,
            "replicas": item.count,
            **self._scaling(spec),
            "ready_replicas": len(ready),
            "workers": ready,
            "pinned": spec.pinned,
            **_memory(item, observed),
            **_hosting(item, observed),
            "validation": spec.validation,
            "variants": self._variants(spec.name),
            "routing": msgspec.to_builtins(spec.routing),
            "approvals": spec.approvals or 0,
            "webhooks": [hook.name for hook in spec.webhooks or ()],
            "url": f"{self._http_url}/v2/models/{spec.name}/infer",
            "reason": reason,
        }


def _memory(item: Desired, observed: Observed) -> dict[str, Any]:
    """Return on how many workers the wanted version is in memory, and what it takes there."""
    variant = item.version.id if item.version is not None else ""
    states = [worker[variant] for worker in observed.workers.values() if variant in worker]
    sizes = [state.resident_bytes for state in states if state.state == "ready"]
    return {"in_memory": len(sizes), "resident_bytes": sum(sizes)}


def _hosting(item: Desired, observed: Observed) -> dict[str, Any]:
    """Return where the wanted version runs and with how much; what it computes with is seen."""
    hosting, version = item.place.hosting, item.version
    execution, limits = hosting.execution, hosting.limits
    is_own = version is not None and has_own(version, hosting)
    return {
        "hosting": DEDICATED if is_own else SHARED if version is not None else hosting.kind,
        "instances": execution.instances,
        "threads": execution.threads,
        "cpus": limits.cpus,
        "memory_limit_bytes": limits.memory_bytes,
        "gpu": limits.gpu,
        "provider": ",".join(sorted(providers(item, observed))) or execution.provider,
    }


_PENDING = object()
