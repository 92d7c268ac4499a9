"""Picks the variant that answers: the version that was asked for, a rule, or weights.

A caller with a routing key sticks to its variant, and more weight for one only moves callers to it.
"""

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from salver.core.cohort import Cohort, many_of, one_by_one
from salver.core.context import RequestContext
from salver.core.errors import EndpointNotFound, NotReady, SalverError, VersionNotFound
from salver.core.handler import Handler, Responder
from salver.core.ids import ArmSeal, RequestIds
from salver.core.request import InferenceRequest
from salver.core.routing import FULL, INPUT, PREVIOUS, ring
from salver.traffic.keys import key_of, sticky_point, where_of
from salver.traffic.rules import Rules
from salver.wire.messages import EndpointPlan, Plan, VariantPlan

_RETRY_AFTER_S: Final = 1.0
_BY_CHANCE: Final = True
_CHOSEN: Final = False


class Route:
    """The answering variants of one endpoint, ready for picking.

    ``only`` is the variant of all requests that name no version, where there is just one.
    ``has_arms`` tells that which one answered has to be known afterwards.
    """

    __slots__ = (
        "by_version",
        "endpoint",
        "has_arms",
        "is_keyed_by_input",
        "only",
        "rules",
        "seals",
        "thresholds",
        "weighted",
        "where",
    )

    def __init__(self, endpoint: EndpointPlan) -> None:
        self.endpoint = endpoint
        parts = ring([v.weight for v in endpoint.variants], endpoint.floor)
        self.weighted = [endpoint.variants[index] for index, _ in parts]
        self.thresholds = list(accumulate(length for _, length in parts))
        # Versions of two models may have one number: the primary one is meant then.
        self.by_version = {v.version: v for v in reversed(endpoint.answering)}
        self.rules = Rules(endpoint)
        # One that is only kept to go back to makes no difference to anybody.
        self.has_arms = sum(v.role != PREVIOUS for v in endpoint.variants) > 1
        primary = endpoint.variants[0].signature if endpoint.variants else None
        self.where = where_of(endpoint.routing.source, primary)
        self.is_keyed_by_input = self.where[0] == INPUT
        self.seals: dict[tuple[str, int], ArmSeal] = {}
        alone = len(self.weighted) == 1 and not self.rules
        self.only = self.weighted[0] if alone else None

    def named(self, version: str) -> VariantPlan:
        """Return the variant of a version; raises ``VersionNotFound``."""
        variant = self.by_version.get(version)
        if variant is None:
            known = ", ".join(sorted(self.by_version)) or "none"
            raise VersionNotFound(
                f"endpoint {self.endpoint.name!r} does not serve version {version!r}; "
                f"it serves {known}"
            )
        return variant

    def at(self, point: int) -> VariantPlan:
        """Return the variant at a point of ``[0, 10000)``; raises ``NotReady``."""
        if not self.weighted:
            reason = self.endpoint.reason or "its model is still loading"
            raise NotReady(
                f"endpoint {self.endpoint.name!r} is not ready: {reason}",
                retry_after_s=_RETRY_AFTER_S,
            )
        total = self.thresholds[-1]
        if total != FULL:
            point = point * total // FULL
        return self.weighted[bisect_right(self.thresholds, point)]


class Router:
    """Handler that resolves endpoint and variant, then passes on.

    With ``ids`` the requests of endpoints with several variants get ids that say which answered.
    """

    def __init__(self, inner: Handler, rng: random.Random, ids: RequestIds | None = None) -> None:
        self._inner = inner
        self._inner_many = many_of(inner)
        self._rng = rng
        self._ids = ids
        self._routes: dict[str, Route] = {}

    def apply(self, plan: Plan) -> None:
        """Route by this plan from now on."""
        self._routes = {endpoint.name: Route(endpoint) for endpoint in plan.endpoints}

    def endpoint(self, name: str) -> EndpointPlan | None:
        """Return what the plan says of an endpoint."""
        route = self._routes.get(name)
        return None if route is None else route.endpoint

    def endpoints(self) -> list[EndpointPlan]:
        """Return every endpoint of the plan."""
        return [route.endpoint for route in self._routes.values()]

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Pick a variant and hand the request on, or fail it."""
        try:
            self.resolve(request, context)
        except SalverError as error:
            responder.fail(error)
            return
        self._inner(request, context, responder)

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Hand cohorts on, parted by variant where chance decides.

        Those that cannot be routed as a whole go member by member.
        """
        whole: list[Cohort] = []
        for cohort in cohorts:
            request, context = cohort.request, cohort.context
            route = self._routes.get(request.endpoint)
            if route is None or route.endpoint.tenant != context.principal.tenant:
                one_by_one(self, cohort)
            elif route.only is not None and request.version is None and not route.has_arms:
                _assign(context, route.only, route.only.weight_epoch)
                whole.append(cohort)
            else:
                whole += self._parted(route, cohort)
        if whole:
            self._inner_many(whole)

    def resolve(self, request: InferenceRequest, context: RequestContext) -> VariantPlan:
        """Return the variant for a request, and note it in the context.

        Raises ``EndpointNotFound``, ``VersionNotFound`` or ``NotReady``.
        """
        route = self._routes.get(request.endpoint)
        # Another tenant's endpoint is answered like none, so that names cannot be probed.
        if route is None or route.endpoint.tenant != context.principal.tenant:
            raise EndpointNotFound(
                f"no endpoint {request.endpoint!r}; 'salver get endpoints' lists what is deployed"
            )
        if route.only is not None and request.version is None and not route.has_arms:
            _assign(context, route.only, route.only.weight_epoch)
            return route.only
        variant = self._chosen(route, request, context)
        if variant is not None:
            self._mark(route, context, variant, by_chance=_CHOSEN)
            self._seal_one(route, context, -1)
            return variant
        key = key_of(request, context, route.where)
        if key is None:
            point = int(self._rng.random() * FULL)
        else:
            context.routing_key = key
            context.place = point = sticky_point(request.endpoint, key, route.endpoint.salt)
        variant = route.at(point)
        self._mark(route, context, variant, by_chance=_BY_CHANCE)
        self._seal_one(route, context, point)
        return variant

    def _chosen(
        self, route: Route, request: InferenceRequest, context: RequestContext
    ) -> VariantPlan | None:
        """Return the variant that was asked for or that a rule names."""
        if request.version is not None:
            return route.named(request.version)
        return route.rules.pick(request, context) if route.rules else None

    def _mark(
        self, route: Route, context: RequestContext, variant: VariantPlan, *, by_chance: bool
    ) -> None:
        epoch = variant.weight_epoch if by_chance or not route.has_arms else 0
        _assign(context, variant, epoch)
        context.captured = route.endpoint.captures and epoch > 0

    def _seal_one(self, route: Route, context: RequestContext, point: int) -> None:
        """Put the arm into an id, and the point that decided: also of requests without a key."""
        if route.has_arms and self._ids is not None and context.request_id:
            context.request_id = self._seal(route, context)(context.request_id, point)

    def _seal(self, route: Route, context: RequestContext) -> ArmSeal:
        arm = (context.version, context.weight_epoch)
        seal = route.seals.get(arm)
        if seal is None:
            assert self._ids is not None
            version = int(context.version) if context.version.isdigit() else 0
            seal = self._ids.arm(route.endpoint.name, version, context.weight_epoch)
            route.seals[arm] = seal
        return seal

    def _parted(self, route: Route, cohort: Cohort) -> list[Cohort]:
        """Return a cohort as one for each variant that members of it get.

        What all members have in common decides for all; only where chance does are they parted.
        """
        request, context = cohort.request, cohort.context
        if route.is_keyed_by_input or not route.weighted:
            one_by_one(self, cohort)
            return []
        try:
            variant = self._chosen(route, request, context)
        except SalverError:
            one_by_one(self, cohort)
            return []
        if variant is not None:
            self._mark(route, context, variant, by_chance=_CHOSEN)
            return [self._sealed(route, cohort, [-1] * len(cohort))]
        key = key_of(request, context, route.where)
        if key is not None:
            context.routing_key = key
            context.place = sticky_point(request.endpoint, key, route.endpoint.salt)
            self._mark(route, context, route.at(context.place), by_chance=_BY_CHANCE)
            return [self._sealed(route, cohort, [context.place] * len(cohort))]
        draw = self._rng.random
        points = [int(draw() * FULL) for _ in range(len(cohort))]
        chosen: dict[str, VariantPlan] = {}
        members: dict[str, list[int]] = {}
        for index, point in enumerate(points):
            variant = route.at(point)
            chosen[variant.id] = variant
            members.setdefault(variant.id, []).append(index)
        whole: list[Cohort] = []
        groups = list(members.values())
        for variant, group, part in zip(
            chosen.values(), groups, cohort.parted(groups), strict=True
        ):
            self._mark(route, part.context, variant, by_chance=_BY_CHANCE)
            whole.append(self._sealed(route, part, [points[index] for index in group]))
        return whole

    def _sealed(self, route: Route, cohort: Cohort, points: list[int]) -> Cohort:
        context = cohort.context
        if route.has_arms and self._ids is not None:
            seal = self._seal(route, context)
            cohort.request_ids[:] = map(seal, cohort.request_ids, points)
            cohort.audience.seated(cohort)
        return cohort


def _assign(context: RequestContext, variant: VariantPlan, epoch: int) -> None:
    context.variant = variant.id
    context.version = variant.version
    context.weight_epoch = epoch
    context.idempotent = variant.idempotent
