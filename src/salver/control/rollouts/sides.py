"""Begins and ends shadows and experiments."""

import secrets
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from salver.control.database import DatabaseThread
from salver.control.reconcile import Reconciler
from salver.control.rollouts.gates import Gates, check_model
from salver.core.clock import Clock
from salver.core.errors import Conflict, EndpointNotFound, InvalidRequest, NotReady
from salver.core.feedback import ANY_VALUE, Bounds
from salver.core.names import check_name, parse_reference
from salver.core.routing import ARM, FULL
from salver.core.sides import EXPERIMENT, SHADOW, THOMPSON, Side, SideArm
from salver.registry.catalog import Catalog
from salver.registry.feedback import FeedbackStore
from salver.registry.records import EndpointSpec, VersionRecord
from salver.registry.sides import SideStore
from salver.registry.state import StateStore
from salver.traffic.keys import sticky_point

Choose = Callable[[EndpointSpec, VersionRecord], tuple[SideArm, ...]]

MIN_ARMS, MAX_ARMS = 2, 8
MAX_COVARIATE = 1e9
MAX_KEY_CHARS = 256
"""Of longer routing keys no more counts, see ``traffic.keys``."""
_MILLISECOND_NS = 1_000_000
_SALT_BYTES = 6


class ExperimentPlan(NamedTuple):
    """What an experiment shall be.

    ``split`` is each version's part in basis points; an empty one follows success (Thompson
    sampling), with at least ``floor`` for each. Outcomes outside the ``bounds`` are refused.
    """

    versions: tuple[str, ...]
    split: tuple[int, ...]
    metric: str
    floor: int = 0
    prefers_less: bool = False
    bounds: Bounds = ANY_VALUE

    def validate(self) -> None:
        """Raise ``InvalidRequest`` for what cannot be meant."""
        check_name(self.metric, "metric")
        self.bounds.validate()
        count = len(self.versions)
        if not MIN_ARMS <= count <= MAX_ARMS or (self.split and len(self.split) != count):
            raise InvalidRequest(
                f"an experiment has {MIN_ARMS} to {MAX_ARMS} arms with a part each"
            )
        if self.split and (sum(self.split) != FULL or min(self.split) <= 0):
            total = sum(self.split) / 100
            raise InvalidRequest(f"the parts add up to {total:g} percent, not to 100")
        least, most = FULL // 100, FULL // count // 100 * 100
        if not self.split and (not least <= self.floor <= most or self.floor % least):
            raise InvalidRequest(
                f"the floor of each of {count} arms is 1 to {most // 100} whole percents"
            )


def even_split(arms: int) -> tuple[int, ...]:
    """Return equal parts in basis points; the first has what is left over."""
    part = FULL // arms
    return (FULL - part * (arms - 1), *(part,) * (arms - 1))


def by_place(side: Side, callers: Sequence[tuple[str, float]]) -> dict[int, tuple[int, float]]:
    """Return callers and the sum of their values by where a side's salt puts them."""
    found: dict[int, tuple[int, float]] = {}
    for key, value in callers:
        place = sticky_point(side.endpoint, key[:MAX_KEY_CHARS], side.salt)
        count, total = found.get(place, (0, 0.0))
        found[place] = count + 1, total + value
    return found


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

        Raises what the gates refuse with, ``InvalidRequest``, ``NotReady``, and ``Conflict`` for
        the version that the endpoint serves.
        """
        if not 0 < sample <= FULL:
            raise InvalidRequest("a shadow gets copies of more than 0 and at most 100 percent")

        def arms(spec: EndpointSpec, primary: VersionRecord) -> tuple[SideArm, ...]:
            target = self._version(version, spec)
            if target.id == primary.id:
                raise Conflict(
                    f"endpoint {spec.name!r} serves {target.id} already; a shadow is another "
                    "version, to compare with it"
                )
            if not force:
                self._gates.check_version(spec, primary, target, SHADOW)
            return (SideArm(target.id, sample=sample),)

        return await self._begin(endpoint, SHADOW, arms, actor)

    async def experiment(
        self, endpoint: str, plan: ExperimentPlan, actor: str, *, force: bool
    ) -> Side:
        """Split an endpoint's requests between versions, of which one is the primary.

        Raises as ``shadow``, and ``ApprovalMissing`` for a version of which too few people
        approve; that is not forced.
        """
        plan.validate()
        versions = plan.versions
        split = plan.split or even_split(len(versions))

        def arms(spec: EndpointSpec, primary: VersionRecord) -> tuple[SideArm, ...]:
            found = [self._version(version, spec) for version in versions]
            if len({version.id for version in found}) != len(found):
                raise InvalidRequest("each version is one arm only")
            if primary.id not in [version.id for version in found]:
                raise InvalidRequest(f"one arm is what the endpoint serves now, {primary.id}")
            for version in found:
                if not force:
                    self._gates.check_version(spec, primary, version, ARM, found)
                if version.id != primary.id:
                    self._gates.check_approved(spec, version, actor)
            parts = [
                SideArm(version.id, weight=weight)
                for version, weight in zip(found, split, strict=True)
            ]
            return tuple(sorted(parts, key=lambda part: part.version != primary.id))

        options: dict[str, Any] = {"metric": plan.metric, "bounds": plan.bounds}
        if not plan.split:
            options |= {"split": THOMPSON, "floor": plan.floor, "prefers_less": plan.prefers_less}
        return await self._begin(endpoint, EXPERIMENT, arms, actor, **options)

    async def covariate(
        self, endpoint: str, callers: Sequence[tuple[str, float]], *, replaces: bool
    ) -> Side:
        """Take what was known of callers, by routing key, before the endpoint's newest experiment.

        With ``replaces`` what was taken before is forgotten. Only sums by place on the ring of keys
        are kept. Raises ``SideNotFound``, and ``InvalidRequest`` for values that are no numbers and
        endpoints whose callers have no key.
        """
        check_name(endpoint, "endpoint")
        parts = self.parts
        if any(not abs(value) <= MAX_COVARIATE for _, value in callers):
            raise InvalidRequest(f"a covariate is a number up to {MAX_COVARIATE:g}")

        def work() -> Side:
            spec = parts.state.endpoint(endpoint)
            if spec is None or not spec.routing.key:
                raise InvalidRequest(
                    f"callers of endpoint {endpoint!r} have no routing key to know them by; see "
                    "'salver deploy --routing-key'"
                )
            side = parts.sides.newest(endpoint, EXPERIMENT)
            parts.sides.add_covariate(side, by_place(side, callers), replaces=replaces)
            return side

        return await parts.database(work)

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

    async def _begin(
        self, endpoint: str, kind: str, arms: Choose, actor: str, **options: Any
    ) -> Side:
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
                    sticky=bool(spec.routing.key),
                    **options,
                ),
            )

        side = await parts.database(work)
        await self._record(actor, f"{kind} start", endpoint)
        return side

    async def _record(self, actor: str, action: str, endpoint: str) -> None:
        state = self.parts.state
        await self.parts.database(lambda: state.record(actor, action, endpoint, {}))
        self._reconciler.wake()

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
