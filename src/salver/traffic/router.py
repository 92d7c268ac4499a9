"""Picks the variant that answers: the version that was asked for, a rule, or weights.

A caller with a routing key sticks to its variant, and more weight for one only moves callers to it.
"""

import random
from collections.abc import Sequence

from salver.core.cohort import Cohort, many_of, one_by_one
from salver.core.context import RequestContext
from salver.core.errors import EndpointNotFound, SalverError
from salver.core.handler import Handler, Responder
from salver.core.ids import RequestIds
from salver.core.request import InferenceRequest
from salver.core.routing import FULL
from salver.traffic.keys import key_of, sticky_point
from salver.traffic.route import Route
from salver.wire.messages import EndpointPlan, Plan, VariantPlan


class Router:
    """Handler that resolves endpoint and variant, then passes on.

    With ``ids`` the requests of endpoints with several variants get ids that say which answered.
    """

    def __init__(self, inner: Handler, rng: random.Random, ids: RequestIds | None = None) -> None:
        self._inner = inner
        self._inner_many = many_of(inner)
        self._draw = rng.random
        self._ids = ids
        self._routes: dict[str, Route] = {}

    def apply(self, plan: Plan) -> None:
        """Route by this plan from now on."""
        self._routes = {one.name: Route(one, self._ids) for one in plan.endpoints}

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
            elif route.only is not None and request.version is None:
                # No ids to seal: nobody asks later which of one version it was.
                route.only.enter(context, -1)
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
        arm, point = route.only, -1
        if arm is None or request.version is not None:
            arm = route.picked(request, context)
        if arm is None:
            key = key_of(request, context, route.where) if route.is_keyed else None
            if key is None:
                point = int(self._draw() * FULL)
            else:
                context.routing_key = key
                context.place = point = sticky_point(request.endpoint, key, route.endpoint.salt)
            arm = route.at(point)
        arm.enter(context, point)
        return arm.variant

    def _parted(self, route: Route, cohort: Cohort) -> list[Cohort]:
        """Return a cohort as one for each variant that members of it get.

        What all members have in common decides for all; only where chance does are they parted.
        """
        request, context = cohort.request, cohort.context
        if route.is_keyed_by_input or not route.is_ready:
            one_by_one(self, cohort)
            return []
        try:
            arm = route.picked(request, context)
        except SalverError:
            one_by_one(self, cohort)
            return []
        if arm is not None:
            return [arm.enter_all(cohort, [-1] * len(cohort))]
        key = key_of(request, context, route.where)
        if key is not None:
            context.routing_key = key
            context.place = sticky_point(request.endpoint, key, route.endpoint.salt)
            return [route.at(context.place).enter_all(cohort, [context.place] * len(cohort))]
        draw = self._draw
        points = [int(draw() * FULL) for _ in range(len(cohort))]
        members = route.dealt(points)
        groups = list(members.values())
        parts = zip(members, groups, cohort.parted(groups), strict=True)
        return [arm.enter_all(part, [points[i] for i in group]) for arm, group, part in parts]
