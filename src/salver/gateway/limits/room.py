"""Handler that lets as many requests through to a variant as help it, and others wait in turns."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from salver.core.clock import Clock
from salver.core.cohort import Cohort, many_of
from salver.core.context import RequestContext
from salver.core.errors import DeadlineExceeded, Draining, Overloaded, SalverError, fault_of
from salver.core.handler import Handler, Responder
from salver.core.request import InferenceRequest, form_of
from salver.core.settings import Settings
from salver.engine.client.pending import VariantRoute
from salver.gateway.limits.fair import FairQueue
from salver.gateway.limits.gradient import Gradient2, GradientPolicy
from salver.observe.logs import get_logger
from salver.observe.meter import Meter
from salver.observe.outcomes import Outcome
from salver.wire.messages import Plan, VariantPlan

log = get_logger(__name__)

_SWEEP_S = 0.02
_RETRY_AFTER_S = 1.0
_LEAST_WAITING = 1
_LATE = 1.25
_S_NS = 1_000_000_000

Caller = tuple[str, str]
FindRoute = Callable[[str], VariantRoute | None]


class Waiting(msgspec.Struct, eq=False):
    """A request that waits for room."""

    request: InferenceRequest
    context: RequestContext
    responder: Responder
    since_ns: int


class VariantRoom:
    """What one variant has room for.

    ``limit`` is how many may be open, ``peak`` how many were since the limiter's last step.
    ``waited_ns`` adds up how long each request waited, until that was last counted.
    """

    __slots__ = (
        "_counted_ns",
        "is_pumping",
        "limit",
        "limiter",
        "peak",
        "plan",
        "queue",
        "route",
        "waited_ns",
    )

    def __init__(self, plan: VariantPlan, route: VariantRoute, queue: FairQueue[Waiting]) -> None:
        self.plan = plan
        self.route = route
        self.queue = queue
        self.limiter: Gradient2 | None = None
        self.limit = 0
        self.peak = 0
        self.is_pumping = False
        self.waited_ns = 0
        self._counted_ns = 0

    def count(self, now_ns: int) -> None:
        """Add up how long requests have waited; to be called before their number changes."""
        self.waited_ns += self.queue.count * (now_ns - self._counted_ns)
        self._counted_ns = now_ns


class Rooms:
    """One room for each variant.

    While there is room and nobody waits, a request costs one look. Else it waits in the lane of
    its caller, and lanes take turns; see ``limits.fair``. The limit is the smaller one of the
    static limit, what the workers' queues hold, and what was learned where that is asked for.
    """

    def __init__(
        self, inner: Handler, find: FindRoute, settings: Settings, clock: Clock, meter: Meter
    ) -> None:
        self._inner = inner
        self._inner_many = many_of(inner)
        self._find = find
        self._limits = settings.limits
        self._max_in_flight = settings.engine.max_in_flight
        self._clock = clock
        self._meter = meter
        self._rooms: dict[str, VariantRoom] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    def apply(self, plan: Plan) -> None:
        """Know the variants of this plan from now on; the engine knows it already."""
        previous, self._rooms = self._rooms, {}
        for endpoint in plan.endpoints:
            for variant in endpoint.variants:
                route = self._find(variant.id)
                if route is None:
                    continue
                room = previous.get(variant.id)
                if room is None or room.route is not route:
                    room = self._new(variant, route)
                else:
                    del previous[variant.id]
                room.plan = variant
                self._rooms[variant.id] = room
                self._set_limit(room)
                self._pump(room)
        for gone in previous.values():
            # The engine has an answer for those who wait for what is not there any more.
            self._release(gone, gone.queue.count)

    def stop(self) -> None:
        """Refuse what waits."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for room in self._rooms.values():
            while (waiting := room.queue.pop()) is not None:
                waiting.responder.fail(
                    Draining("this gateway is stopping", retry_after_s=_RETRY_AFTER_S)
                )

    def report(self) -> None:
        """Set the gauges."""
        for variant, room in self._rooms.items():
            self._meter.set("salver_requests_waiting", (variant,), room.queue.count)
            self._meter.set("salver_concurrency_limit", (variant,), room.limit)
            room.count(self._clock.monotonic_ns())
            seconds = room.waited_ns / _S_NS
            self._meter.add("salver_request_open_seconds_total", (variant,), seconds)
            room.waited_ns = 0

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Pass a request on if there is room, else let it wait or refuse it."""
        room = self._rooms.get(context.variant)
        if room is not None:
            in_flight = room.route.in_flight
            if in_flight >= room.limit or room.queue.count:
                self._wait(room, request, context, responder)
                return
            if in_flight >= room.peak:
                room.peak = in_flight + 1
        self._inner(request, context, responder)

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Pass cohorts on as far as there is room; members over it wait one by one."""
        whole: list[Cohort] = []
        taken: dict[str, int] = {}
        for cohort in cohorts:
            variant = cohort.context.variant
            room = self._rooms.get(variant)
            if room is not None:
                before = taken.get(variant, 0)
                free = 0 if room.queue.count else room.limit - room.route.in_flight - before
                if free < len(cohort):
                    over = cohort.cut(max(0, free))
                    for request, context, responder in over:
                        self._wait(room, request, context, responder)
                taken[variant] = before + len(cohort)
                room.peak = max(room.peak, room.route.in_flight + taken[variant])
            if len(cohort):
                whole.append(cohort)
        if whole:
            self._inner_many(whole)

    def counted(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from what workers measured."""
        if not self._limits.adaptive:
            return
        sums: dict[str, tuple[int, int, int]] = {}
        for one in outcomes:
            timed, total_ns, run_ns = sums.get(one.variant, (0, 0, 0))
            sums[one.variant] = (
                timed + one.timed,
                total_ns + one.total_ns,
                run_ns + one.run_ns,
            )
        now_ns = self._clock.monotonic_ns()
        for variant, (timed, total_ns, run_ns) in sums.items():
            room = self._rooms.get(variant)
            if room is None or room.limiter is None or not timed:
                continue
            if room.limiter.record(timed, total_ns, run_ns, room.peak, now_ns):
                room.peak = room.route.in_flight
                self._set_limit(room)
                self._pump_soon(room)

    def _new(self, variant: VariantPlan, route: VariantRoute) -> VariantRoom:
        limits = self._limits
        queue: FairQueue[Waiting] = FairQueue(limits.max_waiting, limits.max_waiting_per_caller)
        room = VariantRoom(variant, route, queue)
        if limits.adaptive:
            policy = GradientPolicy(
                least=limits.adaptive_min,
                most=self._max_in_flight,
                tolerance=limits.adaptive_tolerance,
                floor_ns=round(limits.adaptive_floor_ms * 1e6),
            )
            room.limiter = Gradient2(policy, self._clock.monotonic_ns())
        return room

    def _set_limit(self, room: VariantRoom) -> None:
        held = room.plan.policy.max_queue * max(1, len(room.route.links))
        room.limit = max(1, min(self._max_in_flight, held))
        limiter, limits = room.limiter, self._limits
        if limiter is None:
            return
        room.limit = min(room.limit, limiter.limit)
        if limiter.short_ns:
            wait_ns, run_ns = limits.max_wait_ms * 1e6, limiter.run_ns
            a_nanosecond = limiter.running / run_ns
            room.limit = max(1, min(room.limit, round(a_nanosecond * (wait_ns + run_ns))))
            # What waits in the worker's queue has waited as well.
            left_ns = wait_ns - (limiter.short_ns - run_ns)
            fitting = max(_LEAST_WAITING, round(a_nanosecond * left_ns))
            room.queue.max_items = min(limits.max_waiting, fitting)

    def _wait(
        self,
        room: VariantRoom,
        request: InferenceRequest,
        context: RequestContext,
        responder: Responder,
    ) -> None:
        now_ns = self._clock.monotonic_ns()
        waiting = Waiting(request, context, responder, now_ns)
        room.count(now_ns)
        caller, queue = _caller(context), room.queue
        given_up = queue.push(caller, waiting, form_of(request).rows)
        if given_up is not waiting:
            context.on_cancel = partial(self._left, room, waiting)
            room.route.when_room = partial(self._pump_soon, room)
            if self._sweeping is None:
                self._sweep_later()
        if given_up is not None:
            given_up.context.on_cancel = None
            self._crowd_out(room, given_up)
        if room.route.in_flight < room.limit:
            self._pump_soon(room)

    def _refusal(self, room: VariantRoom) -> Overloaded:
        return Overloaded(
            f"{room.limit} requests are open for {room.plan.id} and {room.queue.count} wait; try "
            "again later or add replicas",
            retry_after_s=_RETRY_AFTER_S,
        )

    def _crowd_out(self, room: VariantRoom, waiting: Waiting) -> None:
        self._meter.add("salver_requests_crowded_out_total", (room.plan.id,))
        waiting.responder.fail(self._refusal(room))

    def _left(self, room: VariantRoom, waiting: Waiting) -> None:
        room.count(self._clock.monotonic_ns())
        room.queue.remove(_caller(waiting.context), waiting)
        self._meter.add("salver_requests_dropped_total", (room.plan.id, "cancelled"))

    def _pump_soon(self, room: VariantRoom) -> None:
        """Look for room at the end of this turn of the loop, once for all that ended in it."""
        if not room.is_pumping and room.queue.count:
            room.is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump, room)

    def _pump(self, room: VariantRoom) -> None:
        room.is_pumping = False
        self._release(room, room.limit - room.route.in_flight)

    def _release(self, room: VariantRoom, count: int) -> None:
        """Let the next ones through; those that are late are told instead."""
        queue, now_ns = room.queue, self._clock.monotonic_ns()
        room.count(now_ns)
        while count > 0 and (waiting := queue.pop()) is not None:
            waiting.context.on_cancel = None
            if waiting.context.deadline_ns <= now_ns:
                self._late(room, waiting)
                continue
            count -= 1
            try:
                self._inner(waiting.request, waiting.context, waiting.responder)
            except Exception as error:  # whatever it was, the caller must be answered
                log.exception("release_failed", request_id=waiting.context.request_id)
                waiting.responder.fail(fault_of(error))
        room.peak = max(room.peak, room.route.in_flight)
        if not queue.count:
            room.route.when_room = None

    def _late(self, room: VariantRoom, waiting: Waiting) -> None:
        self._meter.add("salver_requests_dropped_total", (room.plan.id, "deadline"))
        error: SalverError = DeadlineExceeded(
            "the deadline passed while the request waited for room; allow more time or add replicas"
        )
        waiting.responder.fail(error)

    def _sweep_later(self) -> None:
        self._sweeping = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Tell those whose deadline has passed, also while nothing ends."""
        self._sweeping = None
        now_ns = self._clock.monotonic_ns()
        for room in self._rooms.values():
            if not room.queue.count:
                continue
            room.count(now_ns)
            since_ns = self._waits_since_ns(room, now_ns)
            for waiting in room.queue:
                is_late = waiting.context.deadline_ns <= now_ns
                if is_late or waiting.since_ns < since_ns:
                    room.queue.remove(_caller(waiting.context), waiting)
                    waiting.context.on_cancel = None
                    (self._late if is_late else self._crowd_out)(room, waiting)
        if self._sweeping is None and any(room.queue.count for room in self._rooms.values()):
            self._sweep_later()

    def _waits_since_ns(self, room: VariantRoom, now_ns: int) -> int:
        """Return when what still waits has come at the earliest.

        How many may wait follows from how fast they are answered, which is learned late and
        changes. This holds while it is wrong.
        """
        if room.limiter is None:
            return 0
        return now_ns - round(_LATE * self._limits.max_wait_ms * 1e6)


def _caller(context: RequestContext) -> Caller:
    principal = context.principal
    return (principal.tenant, principal.name)
