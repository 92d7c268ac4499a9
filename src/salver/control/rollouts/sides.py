"""Begins and ends shadows and experiments."""

import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from salver.control.database import DatabaseThread
from salver.control.reconcile import Reconciler
from salver.control.rollouts.gates import Gates, check_model
from salver.core.clock import Clock
from salver.core.errors import EndpointNotFound, InvalidRequest, NotReady
from salver.core.names import check_name, parse_reference
from salver.core.routing import FULL
from salver.core.sides import EXPERIMENT, SHADOW, Side, SideArm
from salver.registry.catalog import Catalog
from salver.registry.feedback import FeedbackStore
from salver.registry.records import EndpointSpec, VersionRecord
from salver.registry.sides import SideStore
from salver.registry.state import StateStore

Choose = Callable[[EndpointSpec, VersionRecord], tuple[SideArm, ...]]

MIN_ARMS, MAX_ARMS = 2, 8
_MILLISECOND_NS = 1_000_000
_SALT_BYTES = 6


class SideParts(NamedTuple):
    """Where all of it is kept, and the thread that may ask."""

    sides: SideStore
    state: StateStore
    outcomes: FeedbackStore
    database: DatabaseThread


class Sides:
    """What people may say of shadows and experiments. One of them goes on at an endpoint."""

    def __init__(
        self,
        parts: SideParts,
        catalog: Catalog,
        gates: Gates,
        reconciler: Reconciler,
        clock: Clock,
    ) -> None:
        self.parts = parts
        self._catalog = catalog
        self._gates = gates
        self._reconciler = reconciler
        self._clock = clock

    async def shadow(
        self, endpoint: str, version: str, sample: int, actor: str, *, force: bool
    ) -> Side:
        """Copy a part of an endpoint's requests (basis points) to a version.

        Raises what the gates refuse with, ``InvalidRequest``, ``NotReady`` and ``Conflict``.
        """
        if not 0 < sample <= FULL:
            raise InvalidRequest("a shadow gets copies of more than 0 and at most 100 percent")

        def arms(spec: EndpointSpec, primary: VersionRecord) -> tuple[SideArm, ...]:
            target = self._version(version, spec)
            self._check(spec, primary, target, force=force)
            return (SideArm(target.id, sample=sample),)

        return await self._begin(endpoint, SHADOW, arms, actor, "")

    async def experiment(
        self,
        endpoint: str,
        versions: Sequence[str],
        split: Sequence[int],
        metric: str,
        actor: str,
        *,
        force: bool,
    ) -> Side:
        """Split an endpoint's requests between versions, of which one is the primary.

        ``split`` is in basis points. Raises as ``shadow``.
        """
        check_name(metric, "metric")
        if not MIN_ARMS <= len(versions) <= MAX_ARMS or len(split) != len(versions):
            raise InvalidRequest(
                f"an experiment has {MIN_ARMS} to {MAX_ARMS} arms with a part each"
            )
        if sum(split) != FULL or min(split) <= 0:
            raise InvalidRequest(f"the parts add up to {sum(split) / 100:g} percent, not to 100")

        def arms(spec: EndpointSpec, primary: VersionRecord) -> tuple[SideArm, ...]:
            found = [self._version(version, spec) for version in versions]
            if len({version.id for version in found}) != len(found):
                raise InvalidRequest("each version is one arm only")
            if primary.id not in [version.id for version in found]:
                raise InvalidRequest(f"one arm is what the endpoint serves now, {primary.id}")
            for version in found:
                self._check(spec, primary, version, force=force)
            parts = [
                SideArm(version.id, weight=weight)
                for version, weight in zip(found, split, strict=True)
            ]
            return tuple(sorted(parts, key=lambda part: part.version != primary.id))

        return await self._begin(endpoint, EXPERIMENT, arms, actor, metric)

    async def stop(self, endpoint: str, kind: str, actor: str) -> Side:
        """End what goes on; raises ``SideNotFound`` and ``EndpointFrozen``."""
        check_name(endpoint, "endpoint")
        epoch, parts = self._reconciler.plan.number, self.parts

        def work() -> Side:
            self._gates.check_thawed(endpoint)
            last = max(epoch, parts.state.plan_number()) + 1
            return parts.sides.end(endpoint, kind, last, self._now_ms())

        side = await parts.database(work)
        await self._record(actor, f"{kind} stop", endpoint)
        return side

    async def _begin(self, endpoint: str, kind: str, arms: Choose, actor: str, metric: str) -> Side:
        check_name(endpoint, "endpoint")
        plan, parts = self._reconciler.plan, self.parts

        def work() -> Side:
            spec = parts.state.endpoint(endpoint)
            if spec is None:
                raise EndpointNotFound(f"no endpoint {endpoint!r}; see 'salver get endpoints'")
            self._gates.check_free(endpoint)
            primary = self._gates.current(spec)
            routed = [e.variants[0].id for e in plan.endpoints if e.name == endpoint and e.variants]
            if routed != [primary.id]:
                raise NotReady(f"{primary.id} does not answer yet", retry_after_s=1.0)
            chosen = arms(spec, primary)
            # Another control may have made plans that this one has not seen.
            first_epoch = max(plan.number, parts.state.plan_number())
            return parts.sides.begin(
                endpoint,
                lambda number: Side(
                    endpoint,
                    number,
                    kind,
                    chosen,
                    secrets.token_hex(_SALT_BYTES),
                    first_epoch,
                    self._now_ms(),
                    actor,
                    metric,
                ),
            )

        side = await parts.database(work)
        await self._record(actor, f"{kind} start", endpoint)
        return side

    async def _record(self, actor: str, action: str, endpoint: str) -> None:
        state = self.parts.state
        await self.parts.database(lambda: state.record(actor, action, endpoint, {}))
        self._reconciler.wake()

    def _check(
        self, spec: EndpointSpec, primary: VersionRecord, target: VersionRecord, *, force: bool
    ) -> None:
        if not force:
            self._gates.check_version(spec, primary, target, beside=True)

    def _version(self, text: str, spec: EndpointSpec) -> VersionRecord:
        if text.isascii() and text.isdigit():
            text = f"{spec.model}:{text}"
        reference = parse_reference(text)
        if reference.version is None and reference.alias is None:
            raise InvalidRequest(f"{text!r} is no version; write 2, NAME:2 or NAME@ALIAS")
        check_model(reference.name, spec)
        return self._catalog.resolve(reference)

    def _now_ms(self) -> int:
        return self._clock.unix_ns() // _MILLISECOND_NS
