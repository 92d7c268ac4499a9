"""Picks the variant by weight; a caller with a routing key sticks to its variant."""

import random
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

from salver.core.cohort import Cohort, many_of, one_by_one
from salver.core.context import RequestContext
from salver.core.errors import EndpointNotFound, NotReady, SalverError, VersionNotFound
from salver.core.handler import Handler, Responder
from salver.core.request import InferenceRequest
from salver.wire.messages import EndpointPlan, Plan, VariantPlan

_RETRY_AFTER_S = 1.0
_FULL_WEIGHT = 10_000


class Route:
    """The answering variants of one endpoint, ready for picking."""

    __slots__ = ("by_version", "endpoint", "only", "thresholds", "weighted")

    def __init__(self, endpoint: EndpointPlan) -> None:
        self.endpoint = endpoint
        self.weighted = [v for v in endpoint.variants if v.weight > 0]
        self.thresholds = list(accumulate(v.weight for v in self.weighted))
        self.by_version = {v.version: v for v in endpoint.variants}
        self.only = self.weighted[0] if len(self.weighted) == 1 else None

    def pick(self, version: str | None, key: str | None, rng: random.Random) -> VariantPlan:
        """Return the variant to answer; raises ``VersionNotFound`` or ``NotReady``."""
        name = self.endpoint.name
        if version is not None:
            variant = self.by_version.get(version)
            if variant is None:
                known = ", ".join(sorted(self.by_version)) or "none"
                raise VersionNotFound(
                    f"endpoint {name!r} does not serve version {version!r}; it serves {known}"
                )
            return variant
        if self.only is not None:
            return self.only
        if not self.weighted:
            reason = self.endpoint.reason or "its model is still loading"
            raise NotReady(
                f"endpoint {name!r} is not ready: {reason}", retry_after_s=_RETRY_AFTER_S
            )
        total = self.thresholds[-1]
        point = rng.randrange(total) if key is None else sticky_point(name, key, total)
        return self.weighted[bisect_right(self.thresholds, point)]


def sticky_point(endpoint: str, key: str, total: int = _FULL_WEIGHT) -> int:
    """Map a routing key to a fixed point in ``[0, total)``, evenly over keys."""
    digest = blake2b(f"{endpoint}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") * total >> 64


class Router:
    """Handler that resolves endpoint and variant, then passes on."""

    def __init__(self, inner: Handler, rng: random.Random) -> None:
        self._inner = inner
        self._inner_many = many_of(inner)
        self._rng = rng
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
            variant = self.resolve(request, context)
        except SalverError as error:
            responder.fail(error)
            return
        _assign(context, variant)
        self._inner(request, context, responder)

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Hand cohorts on whose members all have the same variant; others member by member."""
        whole: list[Cohort] = []
        for cohort in cohorts:
            request, context = cohort.request, cohort.context
            route, variant = self._routes.get(request.endpoint), None
            if route is not None and route.endpoint.tenant == context.principal.tenant:
                version = request.version
                variant = route.only if version is None else route.by_version.get(version)
            if variant is None:
                one_by_one(self, cohort)
            else:
                _assign(context, variant)
                whole.append(cohort)
        if whole:
            self._inner_many(whole)

    def resolve(self, request: InferenceRequest, context: RequestContext) -> VariantPlan:
        """Return the variant for a request.

        Raises ``EndpointNotFound``, ``VersionNotFound`` or ``NotReady``.
        """
        route = self._routes.get(request.endpoint)
        # Another tenant's endpoint is answered like none, so that names cannot be probed.
        if route is None or route.endpoint.tenant != context.principal.tenant:
            raise EndpointNotFound(
                f"no endpoint {request.endpoint!r}; 'salver get endpoints' lists what is deployed"
            )
        return route.pick(request.version, context.routing_key, self._rng)


def _assign(context: RequestContext, variant: VariantPlan) -> None:
    context.variant = variant.id
    context.version = variant.version
    context.weight_epoch = variant.weight_epoch
    context.idempotent = variant.idempotent
