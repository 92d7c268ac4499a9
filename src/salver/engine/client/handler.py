"""Sends each request to the best worker of its variant and applies the retry rule.

Requests that only waited in a dead worker's queue move to another worker. Those in its running
batch are tried once more, each alone, in the quarantine worker. Nothing is tried again after a
first chunk went out, or for variants that are not idempotent.
"""

import asyncio
from collections import deque

from salver.core.clock import Clock
from salver.core.context import RequestContext
from salver.core.errors import (
    DeadlineExceeded,
    Draining,
    NotReady,
    Overloaded,
    SalverError,
    WorkerCrashed,
    from_code,
)
from salver.core.handler import Responder
from salver.core.request import InferenceRequest
from salver.core.settings import EngineSettings
from salver.engine.client.link import WorkerLink
from salver.engine.client.pending import Pending
from salver.observe.meter import Meter
from salver.wire.messages import Fail, Hello, Plan, VariantPlan
from salver.wire.transport import LinkOptions

_RETRY_AFTER_S = 1.0
_SWEEP_S = 0.02
_MAX_ATTEMPTS = 4
_DRAIN_POLL_S = 0.01


class VariantRoute:
    """The links of one variant; ``waiting`` requests wait for a link to become usable."""

    __slots__ = ("in_flight", "links", "plan", "quarantine", "waiting")

    def __init__(self, plan: VariantPlan) -> None:
        self.plan = plan
        self.links: list[WorkerLink] = []
        self.quarantine: WorkerLink | None = None
        self.in_flight = 0
        self.waiting: deque[Pending] = deque()

    def best(self, besides: WorkerLink | None = None) -> WorkerLink | None:
        """Return the usable link with the least outstanding work."""
        best: WorkerLink | None = None
        variant = self.plan.id
        for link in self.links:
            if variant in link.ready and link is not besides:
                if best is None or len(link.pending) < len(best.pending):
                    best = link
        return best


class EngineClient:
    """Handler at the end of the gateway's path; also Component."""

    def __init__(
        self,
        hello: Hello,
        settings: EngineSettings,
        clock: Clock,
        meter: Meter,
        options: LinkOptions,
    ) -> None:
        self._hello = hello
        self._settings = settings
        self._clock = clock
        self._meter = meter
        self._options = options
        self._links: dict[str, WorkerLink] = {}
        self._leaving: list[WorkerLink] = []
        self._routes: dict[str, VariantRoute] = {}
        self._draining = False
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch deadlines."""
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests and wait for the open ones."""
        self._draining = True
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * 1e9)
        while self.in_flight and self._clock.monotonic_ns() < deadline_ns:
            await asyncio.sleep(_DRAIN_POLL_S)

    async def stop(self) -> None:
        """Close every link."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for link in (*self._links.values(), *self._leaving):
            link.stop()

    @property
    def in_flight(self) -> int:
        """Requests without a final answer."""
        sent = sum(len(link.pending) for link in (*self._links.values(), *self._leaving))
        return sent + sum(len(route.waiting) for route in self._routes.values())

    def open_requests(self, variant: str) -> int:
        """Requests of one variant without a final answer."""
        route = self._routes.get(variant)
        return 0 if route is None else route.in_flight

    def is_ready(self, variant: str) -> bool:
        """Tell whether some worker can answer for this variant now."""
        route = self._routes.get(variant)
        return route is not None and route.best() is not None

    def apply(self, plan: Plan) -> None:
        """Know the workers and variants of this plan from now on."""
        workers = {worker.id: worker for worker in plan.workers}
        for identity, link in list(self._links.items()):
            worker = workers.get(identity)
            if worker is None or worker.address != link.address:
                # Its requests are answered first; the sweep closes it after that.
                self._leaving.append(self._links.pop(identity))
        for identity, worker in workers.items():
            if identity not in self._links:
                link = WorkerLink(worker, self._hello, self, self._clock)
                self._links[identity] = link
                link.start(self._settings.connect_timeout_s, self._options)
        self._route([v for endpoint in plan.endpoints for v in endpoint.variants])

    def _route(self, variants: list[VariantPlan]) -> None:
        previous, self._routes = self._routes, {}
        for variant in variants:
            route = previous.get(variant.id) or VariantRoute(variant)
            route.plan = variant
            route.links = [self._links[name] for name in variant.workers if name in self._links]
            route.quarantine = self._links.get(variant.quarantine or "")
            self._routes[variant.id] = route

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Send a request to a worker, or refuse it."""
        route = self._routes.get(context.variant)
        if route is None or self._draining:
            responder.fail(self._refusal(context))
            return
        if route.in_flight >= self._settings.max_in_flight:
            responder.fail(
                Overloaded(
                    f"{route.in_flight} requests are already open for {context.variant}; try "
                    "again later or add replicas",
                    retry_after_s=_RETRY_AFTER_S,
                )
            )
            return
        pending = Pending(request, context, responder, route)
        route.in_flight += 1
        self._dispatch(pending, route)

    def _dispatch(
        self, pending: Pending, route: VariantRoute, besides: WorkerLink | None = None
    ) -> None:
        """Send to the best worker; wait for one that is just being connected; else refuse."""
        link = route.best(besides)
        if link is not None:
            pending.context.on_cancel = lambda: self._cancel(pending)
            link.send(pending)
        elif any(link.fresh for link in route.links):
            pending.context.on_cancel = lambda: self._cancel(pending)
            route.waiting.append(pending)
        else:
            self._end(
                pending,
                NotReady(
                    f"no worker can answer for {route.plan.id} at the moment; it is restarting or "
                    "loading",
                    retry_after_s=_RETRY_AFTER_S,
                ),
            )

    def finished(self, pending: Pending) -> None:
        """Release the request's place."""
        route: VariantRoute = pending.route  # type: ignore[assignment]
        route.in_flight -= 1
        pending.context.on_cancel = None

    def refused(self, pending: Pending, error: Fail) -> None:
        """Try another worker, since this one did not run the request."""
        route: VariantRoute = pending.route  # type: ignore[assignment]
        besides = pending.link
        assert isinstance(besides, WorkerLink)
        if pending.attempts < _MAX_ATTEMPTS and route.best(besides) is not None:
            self._retry(pending, route, besides)
        else:
            self._end(pending, from_code(error.code, error.message, error.retry_after_s))

    def lost(self, link: WorkerLink, pending: list[Pending]) -> None:
        """Apply the retry rule to the requests of a dead worker."""
        for request in pending:
            route: VariantRoute = request.route  # type: ignore[assignment]
            if request.started or request.chunks:
                self._after_crash(request, route)
            elif request.quarantined:
                self._quarantine(request, route)
            elif request.attempts < _MAX_ATTEMPTS:
                self._retry(request, route, link)
            else:
                self._end(request, _crashed(request))

    def usable(self, link: WorkerLink) -> None:
        """Send what waited for this worker."""
        for route in self._routes.values():
            if not route.waiting:
                continue
            if link is route.quarantine or (link in route.links and route.plan.id in link.ready):
                waiting, route.waiting = route.waiting, deque()
                for pending in waiting:
                    if pending.quarantined:
                        self._quarantine(pending, route)
                    else:
                        self._dispatch(pending, route)

    def _after_crash(self, pending: Pending, route: VariantRoute) -> None:
        may_repeat = pending.context.idempotent and not pending.chunks and not pending.quarantined
        if may_repeat and route.quarantine is not None:
            pending.quarantined = True
            self._meter.add("salver_retries_total", (route.plan.id,))
            self._quarantine(pending, route)
        else:
            self._end(pending, _crashed(pending))

    def _quarantine(self, pending: Pending, route: VariantRoute) -> None:
        link = route.quarantine
        if link is None:
            self._end(pending, _crashed(pending))
        elif link.connected and route.plan.id in link.ready:
            pending.context.on_cancel = lambda: self._cancel(pending)
            link.send(pending)
        else:
            pending.link = None
            pending.context.on_cancel = lambda: self._cancel(pending)
            route.waiting.append(pending)

    def _retry(self, pending: Pending, route: VariantRoute, besides: WorkerLink) -> None:
        self._meter.add("salver_retries_total", (route.plan.id,))
        pending.link = None
        self._dispatch(pending, route, besides)

    def _end(self, pending: Pending, error: SalverError) -> None:
        self.finished(pending)
        pending.responder.fail(error)

    def _cancel(self, pending: Pending) -> None:
        link = pending.link
        if isinstance(link, WorkerLink):
            link.cancel(pending)
        else:
            route: VariantRoute = pending.route  # type: ignore[assignment]
            if pending in route.waiting:
                route.waiting.remove(pending)
        self.finished(pending)

    def _refusal(self, context: RequestContext) -> SalverError:
        if self._draining:
            return Draining("this gateway is stopping", retry_after_s=_RETRY_AFTER_S)
        return NotReady(
            f"{context.variant} is not in the present plan", retry_after_s=_RETRY_AFTER_S
        )

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._sweep(self._clock.monotonic_ns())

    def _sweep(self, now_ns: int) -> None:
        """End the requests whose deadline has passed, and close links that are done."""
        for link in (*self._links.values(), *self._leaving):
            late = [p for p in link.pending.values() if p.context.deadline_ns <= now_ns]
            for pending in late:
                link.cancel(pending)
                self._end(pending, _late())
        for route in self._routes.values():
            for pending in [p for p in route.waiting if p.context.deadline_ns <= now_ns]:
                route.waiting.remove(pending)
                self._end(pending, _late())
        for link in [link for link in self._leaving if not link.pending]:
            self._leaving.remove(link)
            link.stop()


def _late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the deadline passed before the model answered; allow more time or add replicas"
    )


def _crashed(pending: Pending) -> WorkerCrashed:
    if pending.quarantined:
        return WorkerCrashed(
            "this request crashed the model's process twice; it is not tried again"
        )
    return WorkerCrashed("the model's process died while it ran this request")
