"""Sends each request to the best worker of its variant and applies the retry rule.

Requests that only waited in a dead worker's queue move to another worker. Those in its running
batch are tried once more, each alone, in the quarantine worker. Nothing is tried again after a
first chunk went out, or for variants that are not idempotent: a worker that vanished behind a
network may have run what it never announced.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from functools import partial

from salver.core.clock import Clock
from salver.core.cohort import Cohort, one_by_one
from salver.core.context import RequestContext
from salver.core.errors import (
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    NotReady,
    Overloaded,
    SalverError,
    WireError,
    WorkerCrashed,
    fault_of,
    from_code,
)
from salver.core.handler import Responder
from salver.core.request import InferenceRequest
from salver.core.settings import EngineSettings
from salver.engine.client.link import WorkerLink
from salver.engine.client.pending import Link, Pending, VariantRoute
from salver.engine.memory import uninitialised
from salver.observe.logs import get_logger
from salver.observe.meter import Meter
from salver.wire.messages import Fail, Hello, Plan, VariantPlan
from salver.wire.transport import LinkOptions

log = get_logger(__name__)

_RETRY_AFTER_S = 1.0
_SWEEP_S = 0.02
_MAX_ATTEMPTS = 4
_DRAIN_POLL_S = 0.01
_SETTLE_NS = 1_000_000_000
_S_NS = 1_000_000_000
_OPEN = "salver_requests_open"


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
        if options.allocate is bytearray:
            options = dataclasses.replace(options, allocate=uninitialised)
        self._options = options
        self._links: dict[str, WorkerLink] = {}
        self._leaving: list[WorkerLink] = []
        self._routes: dict[str, VariantRoute] = {}
        self._waiting: dict[Pending, None] = {}
        self._draining = False
        self._stopped = False
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch deadlines."""
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests and wait for the open ones."""
        self._draining = True
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * 1e9)
        while self.in_flight and self._clock.monotonic_ns() < deadline_ns:  # noqa: ASYNC110 - once
            await asyncio.sleep(_DRAIN_POLL_S)

    async def stop(self) -> None:
        """Close every link; what is still open is refused."""
        self._draining = self._stopped = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for link in (*self._links.values(), *self._leaving):
            link.stop()
        for pending in list(self._waiting):
            self._forget(pending)
            self._end(pending, self._refusal(pending.context))

    @property
    def in_flight(self) -> int:
        """Requests without a final answer."""
        sent = sum(link.open_count for link in (*self._links.values(), *self._leaving))
        return sent + len(self._waiting)

    def open_requests(self, variant: str) -> int:
        """Requests of one variant without a final answer."""
        route = self._routes.get(variant)
        return 0 if route is None else route.in_flight

    def report(self) -> None:
        """Say how many requests are open, and have been for how long."""
        for name, route in self._routes.items():
            self._count(name, route)
            self._meter.set(_OPEN, (name,), route.in_flight)

    def _count(self, name: str, route: VariantRoute) -> None:
        route.count(self._clock.monotonic_ns())
        self._meter.add("salver_request_open_seconds_total", (name,), route.open_ns / _S_NS)
        route.open_ns = 0

    def route(self, variant: str) -> VariantRoute | None:
        """Return the links of a variant of the present plan."""
        return self._routes.get(variant)

    def is_ready(self, variant: str) -> bool:
        """Tell whether some worker can answer for this variant now."""
        return self.ready_workers(variant) > 0

    def ready_workers(self, variant: str) -> int:
        """Return how many workers can answer for this variant now."""
        route = self._routes.get(variant)
        return 0 if route is None else sum(variant in link.ready for link in route.links)

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
                settings = self._settings
                link = WorkerLink(
                    worker,
                    self._hello,
                    self,
                    self._clock,
                    gathers=settings.cohorts,
                    watches=settings.ledger,
                )
                self._links[identity] = link
                link.start(self._settings.connect_timeout_s, self._options)
        self._route([v for endpoint in plan.endpoints for v in endpoint.variants])

    def _route(self, variants: list[VariantPlan]) -> None:
        previous, self._routes = self._routes, {}
        settle_ns = self._clock.monotonic_ns() + _SETTLE_NS
        for variant in variants:
            route = previous.pop(variant.id, None) or VariantRoute(variant)
            route.plan = variant
            links: list[Link] = [self._links[n] for n in variant.workers if n in self._links]
            if links != route.links:
                route.links, route.settle_ns = links, settle_ns
            route.quarantine = self._links.get(variant.quarantine or "")
            self._routes[variant.id] = route
        for name, gone in previous.items():
            self._count(name, gone)
            self._meter.forget(_OPEN, (name,))
            gone.links, gone.quarantine, gone.settle_ns = [], None, 0

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
        route.take(1, self._clock.monotonic_ns())
        context.on_cancel = lambda: self._cancel(pending)
        self._dispatch(pending, route.best())

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Send cohorts as they are where nothing stands against it, else member by member."""
        used: list[Link] = []
        for cohort in cohorts:
            link = self._send_cohort(cohort)
            if link is None:
                one_by_one(self, cohort)
            elif link not in used:
                used.append(link)
        for link in used:
            link.flush()

    def _send_cohort(self, cohort: Cohort) -> Link | None:
        """Return the link that took a cohort, None where its members must go on by themselves."""
        route, count = self._routes.get(cohort.context.variant), len(cohort)
        if route is None or self._draining:
            return None
        if route.in_flight + count > self._settings.max_in_flight:
            return None
        link = route.best()
        if link is None or not link.takes_cohorts:
            return None
        try:
            link.send_cohort(cohort, route)
        except Exception:  # each member is told its own cause when it is tried alone
            return None
        route.take(count, self._clock.monotonic_ns())
        return link

    def held_apart(self, pending: Pending) -> None:
        """Be ready to cancel a request that was one of a cohort until now."""
        pending.context.on_cancel = partial(self._cancel, pending)

    def finished(self, pending: Pending) -> bool:
        """Release the request's place; False if that was done before."""
        if pending.done:
            return False
        pending.done = True
        pending.route.release(1, self._clock.monotonic_ns())
        pending.context.on_cancel = None
        return True

    def unsendable(self, pending: Pending, error: Exception) -> None:
        """End a request that no worker would understand."""
        if isinstance(error, WireError):
            self._end(pending, InvalidRequest(f"the request cannot be sent: {error.message}"))
        elif isinstance(error, SalverError):
            self._end(pending, error)
        else:
            log.error("send_failed", request_id=pending.context.request_id, exc_info=error)
            self._end(pending, fault_of(error))

    def refused(self, pending: Pending, error: Fail) -> None:
        """Try another worker, since this one did not run the request."""
        refused_by, pending.link = pending.link, None
        link = pending.route.best(refused_by)
        if pending.attempts >= _MAX_ATTEMPTS or (link is None and not pending.quarantined):
            self._end(pending, from_code(error.code, error.message, error.retry_after_s))
        elif pending.quarantined:
            self._quarantine(pending)
        else:
            self._retry(pending, link)

    def lost(self, link: WorkerLink, pending: list[Pending]) -> None:
        """Apply the retry rule to the requests of a dead worker."""
        del link
        for request in pending:
            request.link = None
            if request.done:
                continue
            if self._stopped:
                self._end(request, self._refusal(request.context))
            elif not request.context.idempotent or request.chunks:
                self._end(request, _crashed(request))
            elif request.started:
                self._after_crash(request)
            elif request.attempts >= _MAX_ATTEMPTS:
                self._end(request, _crashed(request))
            elif request.quarantined:
                self._quarantine(request)
            else:
                self._retry(request, request.route.best())

    def usable(self, link: WorkerLink) -> None:
        """Send what waited for this worker."""
        for pending in list(self._waiting):
            route = pending.route
            if pending.done:
                continue
            if pending.quarantined:
                if link is route.quarantine and route.plan.id in link.ready:
                    del self._waiting[pending]
                    self._dispatch(pending, link)
            elif link in route.links and route.plan.id in link.ready:
                del self._waiting[pending]
                self._dispatch(pending, route.best())

    def _dispatch(self, pending: Pending, link: Link | None) -> None:
        """Send; without a link wait for one that the plan has just named, or refuse."""
        if link is not None:
            try:
                link.send(pending)
            except Exception as error:  # whatever it was, the caller must be answered
                self.unsendable(pending, error)
        elif self._clock.monotonic_ns() < pending.route.settle_ns:
            self._waiting[pending] = None
        else:
            self._end(pending, _no_worker(pending))

    def _after_crash(self, pending: Pending) -> None:
        if pending.quarantined or pending.route.quarantine is None:
            self._end(pending, _crashed(pending))
            return
        pending.quarantined = True
        self._meter.add("salver_retries_total", (pending.route.plan.id,))
        self._quarantine(pending)

    def _quarantine(self, pending: Pending) -> None:
        """Send to the quarantine worker, or wait for it until the deadline."""
        link = pending.route.quarantine
        if link is None:
            self._end(pending, _crashed(pending))
        elif pending.route.plan.id in link.ready:
            self._dispatch(pending, link)
        else:
            self._waiting[pending] = None

    def _retry(self, pending: Pending, link: Link | None) -> None:
        if link is not None:
            self._meter.add("salver_retries_total", (pending.route.plan.id,))
        self._dispatch(pending, link)

    def _end(self, pending: Pending, error: SalverError) -> None:
        if self.finished(pending):
            pending.responder.fail(error)

    def _cancel(self, pending: Pending) -> None:
        if self.finished(pending):
            self._forget(pending)

    def _forget(self, pending: Pending) -> None:
        link, pending.link = pending.link, None
        if link is not None:
            link.cancel(pending)
        self._waiting.pop(pending, None)

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
        late = [p for p in self._waiting if p.context.deadline_ns <= now_ns]
        for link in (*self._links.values(), *self._leaving):
            for held in link.held:
                if held.cohort.context.deadline_ns <= now_ns:
                    link.take_apart(held)
            late += [p for p in link.pending.values() if p.context.deadline_ns <= now_ns]
        for pending in late:
            self._forget(pending)
            self._end(pending, _late())
        unsettled = [p for p in self._waiting if not p.quarantined and p.route.settle_ns <= now_ns]
        for pending in unsettled:
            self._forget(pending)
            self._end(pending, _no_worker(pending))
        for link in [link for link in self._leaving if not link.open_count]:
            self._leaving.remove(link)
            link.stop()


def _late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the deadline passed before the model answered; allow more time or add replicas"
    )


def _no_worker(pending: Pending) -> NotReady:
    return NotReady(
        f"no worker can answer for {pending.route.plan.id} at the moment; it is restarting or "
        "loading",
        retry_after_s=_RETRY_AFTER_S,
    )


def _crashed(pending: Pending) -> WorkerCrashed:
    if pending.quarantined:
        return WorkerCrashed(
            "the model's process died twice while it held this request; it is not tried again"
        )
    return WorkerCrashed("the model's process died while it held this request")
