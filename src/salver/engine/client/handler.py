"""Sends each request to the best worker of its variant and applies the retry rule.

Requests that only waited in a dead worker's queue move to another worker. Those in its running
batch are tried once more, each alone, in the quarantine worker. What only waits in a worker that
gives no sign of life moves as well, before it is dead. Nothing is tried again after a
first chunk went out, or for variants that are not idempotent: a worker that vanished behind a
network may have run what it never announced.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

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
    fault_of,
    from_code,
)
from salver.core.handler import Responder
from salver.core.request import InferenceRequest
from salver.core.settings import EngineSettings
from salver.engine.client.crash import Death, Deaths, crashed
from salver.engine.client.deaths import DeathNotes
from salver.engine.client.link import WorkerLink
from salver.engine.client.pending import Link, Pending, VariantRoute
from salver.engine.memory import uninitialised
from salver.observe.logs import get_logger
from salver.observe.meter import Meter
from salver.wire.messages import Fail, Hello, Plan, VariantPlan
from salver.wire.transport import LinkOptions

log = get_logger(__name__)

_RETRY_AFTER_S: Final = 1.0
_SWEEP_S: Final = 0.02
_LOOK_NS: Final = 500_000_000
_MAX_ATTEMPTS: Final = 4
_DRAIN_POLL_S: Final = 0.01
_SETTLE_NS: Final = 1_000_000_000
_S_NS: Final = 1_000_000_000
_OPEN: Final = "salver_requests_open"


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
        self._deaths = Deaths(self._end)
        self._looked_ns = 0
        self.notes = DeathNotes()
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
        self._deaths.stop()

    @property
    def in_flight(self) -> int:
        """Requests without a final answer."""
        sent = sum(link.open_count for link in (*self._links.values(), *self._leaving))
        return sent + len(self._waiting) + self._deaths.open_count

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
        return 0 if route is None else sum(link.can_answer(variant) for link in route.links)

    def apply(self, plan: Plan) -> None:
        """Know the workers and variants of this plan from now on."""
        workers = {worker.id: worker for worker in plan.workers}
        for identity, link in list(self._links.items()):
            worker = workers.get(identity)
            if worker is None or worker.address != link.address:
                # Its requests are answered first; the sweep closes it after that.
                self._leaving.append(self._links.pop(identity))
        for identity, worker in workers.items():
            if identity in self._links:
                self._links[identity].update(worker)
            else:
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
        if self._waiting:
            # Who was ready before this plan routed to it does not say so again.
            for link in list(self._links.values()):
                self.usable(link)

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
        death = link.death if pending else None
        self.notes.note(link.identity, link.pid, pending, link.running.unheard)
        for request in pending:
            request.link = None
            if request.done:
                continue
            if self._stopped:
                self._end(request, self._refusal(request.context))
            elif not request.context.idempotent or request.chunks:
                self._deaths.mourn(request, death)
            elif request.started:
                self._after_crash(request, death)
            elif request.attempts >= _MAX_ATTEMPTS:
                self._deaths.mourn(request, death)
            elif request.quarantined:
                self._quarantine(request)
            else:
                request.stays = True
                self._retry(request, request.route.best())

    def usable(self, link: WorkerLink) -> None:
        """Send what waited for this worker."""
        for pending in list(self._waiting):
            route = pending.route
            if pending.done:
                continue
            if pending.quarantined:
                if link is route.quarantine and route.plan.id in link.ready:
                    self._wait_no_more(pending)
                    self._dispatch(pending, link)
            elif link in route.links and route.plan.id in link.ready:
                self._wait_no_more(pending)
                self._dispatch(pending, route.best())

    def failed(self, link: WorkerLink, errors: Mapping[str, SalverError]) -> None:
        """End what waited for this worker to start, unless another one may answer."""
        for pending in list(self._waiting):
            route = pending.route
            error = errors.get(route.plan.id)
            asked = [route.quarantine] if pending.quarantined else route.links
            if error is None or link not in asked or pending.done:
                continue
            # Who cannot be started has closed its link again when the next one says so.
            pending.refused_by |= {link.identity}
            if all(
                one.identity in pending.refused_by or one.wake(route.plan.id)
                for one in asked
                if one is not None
            ):
                self._wait_no_more(pending)
                self._end(pending, error)

    def _wait(self, pending: Pending) -> None:
        if pending not in self._waiting:
            self._waiting[pending] = None
            pending.route.waiting += 1

    def _wait_no_more(self, pending: Pending) -> None:
        if pending in self._waiting:
            del self._waiting[pending]
            pending.route.waiting -= 1

    def _wake(self, pending: Pending, sleepers: Sequence[Link]) -> None:
        """Have the workers of a version started and wait for one, or refuse."""
        route = pending.route
        errors = [link.wake(route.plan.id) for link in sleepers]
        room = route.plan.policy.max_queue
        if all(errors):
            self._end(pending, errors[0] or _no_worker(pending))
        elif route.waiting >= room:
            full = f"{room} requests wait for {route.plan.id} to start already; try again later"
            self._end(pending, Overloaded(full, retry_after_s=_RETRY_AFTER_S))
        else:
            self._wait(pending)

    def _dispatch(self, pending: Pending, link: Link | None) -> None:
        """Send; without a link wait for one that the plan has just named, or refuse."""
        if link is not None:
            try:
                link.send(pending)
            except Exception as error:  # whatever it was, the caller must be answered
                self.unsendable(pending, error)
        elif sleepers := pending.route.sleepers:
            self._wake(pending, sleepers)
        elif self._clock.monotonic_ns() < pending.route.settle_ns or self._may_stay(pending):
            self._wait(pending)
        else:
            self._end(pending, _no_worker(pending))

    def _may_stay(self, pending: Pending) -> bool:
        """Tell whether a request whose worker died may wait for the next process of some worker."""
        route = pending.route
        return pending.stays and bool(route.links) and route.waiting < route.plan.policy.max_queue

    def _after_crash(self, pending: Pending, death: Death | None) -> None:
        if pending.quarantined or pending.route.quarantine is None:
            self._deaths.mourn(pending, death)
            return
        pending.quarantined = True
        for name in ("salver_retries_total", "salver_quarantined_total"):
            self._meter.add(name, (pending.route.plan.id,))
        self._quarantine(pending)

    def _quarantine(self, pending: Pending) -> None:
        """Send to the quarantine worker, or wait for it until the deadline."""
        link = pending.route.quarantine
        if link is None:
            self._deaths.mourn(pending, None)
        elif pending.route.plan.id in link.ready:
            self._dispatch(pending, link)
        elif link.on_demand:
            self._wake(pending, [link])
        else:
            self._wait(pending)

    def _retry(self, pending: Pending, link: Link | None) -> None:
        if link is not None:
            self._meter.add("salver_retries_total", (pending.route.plan.id,))
        self._dispatch(pending, link)

    def _end(self, pending: Pending, error: SalverError) -> None:
        if self.finished(pending):
            pending.fail(error)

    def _cancel(self, pending: Pending) -> None:
        if self.finished(pending):
            self._forget(pending)

    def _forget(self, pending: Pending) -> None:
        link, pending.link = pending.link, None
        if link is not None:
            link.cancel(pending)
        self._wait_no_more(pending)

    def _refusal(self, context: RequestContext) -> SalverError:
        if self._draining:
            return Draining("this gateway is stopping", retry_after_s=_RETRY_AFTER_S)
        return NotReady(
            f"{context.variant} is not in the present plan", retry_after_s=_RETRY_AFTER_S
        )

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_ns = self._clock.monotonic_ns()
            self._sweep(now_ns)
            if now_ns - self._looked_ns >= _LOOK_NS:
                self._looked_ns = now_ns
                self._look(now_ns, round(self._settings.silent_s * 1e9))

    def _look(self, now_ns: int, silent_ns: int) -> None:
        """Let what waits in workers that give no sign of life, or no answers, go to others."""
        if silent_ns <= 0:
            return
        for link in self._links.values():
            if link.signs.look(now_ns, silent_ns, owes=link.connected and link.open_count > 0):
                log.warning("worker_silent", worker=link.identity, requests=link.open_count)
            if link.signs.silent or link.signs.stalled:
                self._relieve(link)
            link.signs.cut_if_gone(now_ns, self._settings)

    def _relieve(self, link: WorkerLink) -> None:
        """Move what a worker has not begun with to those that can take it."""
        for pending in link.unstarted():
            other = pending.route.best(link)
            if other is None or other.signs.silent or not _may_move(pending):
                continue
            # Of two that only take long, neither is worth much moving, nor more than once.
            eases = not other.signs.stalled and other.open_count < link.open_count
            if link.signs.silent or (eases and pending.attempts == 1):
                link.cancel(pending)
                pending.link = None
                self._retry(pending, other)

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
        for pending in [one for one in self._waiting if _waits_in_vain(one, now_ns)]:
            self._forget(pending)
            error: SalverError = _no_worker(pending)
            if pending.quarantined:
                # It has not been tried a second time.
                pending.quarantined = False
                error = crashed(pending, None)
            self._end(pending, error)
        for link in self._links.values():
            link.close_if_left()
        for link in [link for link in self._leaving if not link.open_count]:
            self._leaving.remove(link)
            link.stop()


def _may_move(pending: Pending) -> bool:
    """Tell whether a request may be sent elsewhere though its worker might still answer it."""
    repeatable = pending.context.idempotent and not pending.chunks and not pending.quarantined
    return repeatable and pending.attempts < _MAX_ATTEMPTS


def _waits_in_vain(pending: Pending, now_ns: int) -> bool:
    """Tell whether nobody will come for whom a request waits."""
    route = pending.route
    if pending.quarantined:
        return route.quarantine is None
    is_settled = route.settle_ns <= now_ns and not route.sleepers
    return is_settled and not (pending.stays and route.links)


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
