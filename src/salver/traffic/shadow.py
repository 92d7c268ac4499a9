"""Copies requests to shadows: versions whose answers nobody waits for.

A copy is sent when its caller has been answered. Copies are bounded in number and bytes, and
dropped while the gateway is busy or requests wait for the primary version, so that they can
neither delay nor fail anybody.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from salver.core.clock import Clock
from salver.core.cohort import Audience, Cohort, Piece, many_of
from salver.core.context import Principal, RequestContext
from salver.core.errors import SalverError
from salver.core.handler import Handler, Responder
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse
from salver.core.routing import FULL
from salver.core.settings import ShadowSettings
from salver.core.timing import Timing
from salver.observe.meter import Meter
from salver.traffic.busy import Busy
from salver.traffic.copies import Copy, CopyRoom, Target, copy_of
from salver.wire.messages import Plan

_SMOOTHING = 0.1
_LOOK_S = 0.01
_LONGEST_PAUSE_NS = 100_000_000
_MAX_MIRRORS = 1024


class _Lane:
    """The copies for one shadow: those that wait, how many are open, and when one was last sent."""

    __slots__ = ("open", "sent_ns", "size_bytes", "waiting")

    def __init__(self, now_ns: int) -> None:
        self.waiting: deque[Copy] = deque()
        self.open = self.size_bytes = 0
        self.sent_ns = now_ns


class Shadows:
    """Handler that passes everything on, and copies what is answered.

    ``busy`` says which share of a core the process takes, ``open_requests`` how many requests of a
    variant have no answer yet.
    """

    def __init__(
        self,
        inner: Handler,
        settings: ShadowSettings,
        meter: Meter,
        clock: Clock,
        rng: random.Random,
        busy: Busy,
    ) -> None:
        self.inner = inner
        self.inner_many = many_of(inner)
        self.meter = meter
        self.clock = clock
        self._settings = settings
        self._rng = rng
        self._busy = busy
        self._targets: dict[tuple[str, str], list[Target]] = {}
        self._mirrors: dict[Audience, _Mirror] = {}
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._waiting = self._open = 0
        self._shadows = 1
        self._queue_ratio = 0.0
        self._is_due = self._looks_later = False
        self.open_requests: Callable[[str], int] = _none

    def apply(self, plan: Plan) -> None:
        """Copy for the shadows of this plan from now on."""
        targets: dict[tuple[str, str], list[Target]] = {}
        for endpoint in plan.endpoints:
            shadows = [variant for variant in endpoint.variants if variant.sample > 0]
            if shadows:
                primary = endpoint.variants[0]
                timeout_ns = round(endpoint.timeout_s * 1e9)
                principal = Principal("shadow", endpoint.tenant)
                targets[endpoint.name, primary.id] = [
                    Target(endpoint.name, primary.id, variant, principal, timeout_ns)
                    for variant in shadows
                ]
        self._targets = targets
        self._mirrors.clear()
        known = {target.key for several in targets.values() for target in several}
        self._shadows = max(1, len(known))
        for key, lane in list(self._lanes.items()):
            if key not in known and not lane.waiting and not lane.open:
                del self._lanes[key]

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Pass a request on."""
        self.inner(request, context, self.mirrored(request, context, responder))

    def mirrored(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> Responder:
        """Return a responder that has a request copied, or the given one where none is to be."""
        targets = self._drawn(request.endpoint, context) if self._targets else ()
        if not targets:
            return responder
        # What comes after may change the request for the version that answers it.
        kept = msgspec.structs.replace(request, inputs=[*request.inputs], version=None)
        return _Mirrored(self, kept, targets, responder)

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Pass cohorts on as they are."""
        if self._targets:
            for cohort in cohorts:
                if (cohort.request.endpoint, cohort.context.variant) in self._targets:
                    cohort.audience = self._mirror(cohort.audience)
        self.inner_many(cohorts)

    def answered(self, cohort: Cohort, start: int, stop: int, response: JointResponse) -> None:
        """Copy those members of a cohort that chance picks; they have been answered."""
        context = cohort.context
        if not context.weight_epoch:
            return
        for target in self._targets.get((cohort.request.endpoint, context.variant), ()):
            sample, draw = target.variant.sample, self._rng.randrange
            picked = [i for i in range(start, stop) if sample >= FULL or draw(FULL) < sample]
            if picked:
                parts = [response.alone(index - start) for index in picked]
                room = CopyRoom(self, target, parts)
                size = sum([len(cohort.payloads[index]) for index in picked])
                self.offer(Copy(target, len(picked), size, copy_of(cohort, picked, room)))

    def offer(self, copy: Copy, timing: Timing | None = None) -> None:
        """Send a copy soon, or drop it."""
        if timing is not None:
            self.observe(timing)
        settings, key = self._settings, copy.target.key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(self.clock.monotonic_ns())
        size_bytes = lane.size_bytes + copy.size_bytes
        is_full = len(lane.waiting) >= self._share(settings.max_waiting)
        is_full = is_full or size_bytes > self._share(settings.max_waiting_bytes)
        if is_full or self._is_busy():
            self._dropped(copy)
            if self._waiting:
                self._pump_soon()
            return
        lane.waiting.append(copy)
        lane.size_bytes = size_bytes
        self._waiting += 1
        self._pump_soon()

    def observe(self, timing: Timing) -> None:
        """Learn from an answer how long requests wait, beside how long they run."""
        ratio = timing.queue_ns / max(timing.run_ns, 1)
        self._queue_ratio += _SMOOTHING * (min(ratio, 100.0) - self._queue_ratio)

    def ended(self, target: Target, count: int) -> None:
        """Take note that copies have come to their end."""
        self._open -= count
        self._lanes[target.key].open -= count
        if self._waiting:
            self._pump_soon()

    def _drawn(self, endpoint: str, context: RequestContext) -> list[Target]:
        targets = self._targets.get((endpoint, context.variant))
        if targets is None or not context.weight_epoch:
            return []
        return [t for t in targets if self._rng.randrange(FULL) < t.variant.sample]

    def _mirror(self, audience: Audience) -> "_Mirror":
        """Return the one that stands before an audience; neighbours are answered together by it."""
        mirror = self._mirrors.get(audience)
        if mirror is None:
            if len(self._mirrors) >= _MAX_MIRRORS:
                self._mirrors.clear()
            mirror = self._mirrors[audience] = _Mirror(self, audience)
        return mirror

    def _is_busy(self) -> bool:
        limits = self._settings
        if limits.max_busy < 1 and self._busy.share > limits.max_busy:
            return True
        return 0 < limits.max_queue_ratio < self._queue_ratio

    def _dropped(self, copy: Copy) -> None:
        self.meter.add("salver_shadow_copies_total", (*copy.target.labels, "dropped"), copy.count)

    def _pump_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Send what may be sent, from one lane after the other, so that none holds up another."""
        self._is_due = False
        sends = True
        while sends and self._waiting:
            sends = False
            for lane in list(self._lanes.values()):
                if lane.waiting and self._may_send(lane):
                    self._send(lane)
                    sends = True
        if self._waiting and self._settings.quiet:
            self._look_later()

    def _send(self, lane: _Lane) -> None:
        copy = lane.waiting.popleft()
        lane.sent_ns = self.clock.monotonic_ns()
        lane.size_bytes -= copy.size_bytes
        self._waiting -= 1
        if self._is_busy():
            self._dropped(copy)
            return
        lane.open += copy.count
        self._open += copy.count
        copy.send()

    def _may_send(self, lane: _Lane) -> bool:
        most = self._settings.max_open
        if self._open >= most or lane.open >= self._share(most):
            return False
        return not self._settings.quiet or self._is_time(lane)

    def _share(self, most: int) -> int:
        """Return which part of a limit one lane may take, so that each has some."""
        return max(1, most // self._shadows)

    def _is_time(self, lane: _Lane) -> bool:
        """Tell whether a copy would run beside nothing: no request of the primary, no other copy.

        Where that is never so, now and then one is sent all the same.
        """
        if not lane.open and not self.open_requests(lane.waiting[0].target.primary):
            return True
        return self.clock.monotonic_ns() - lane.sent_ns >= _LONGEST_PAUSE_NS

    def _look_later(self) -> None:
        """Look again soon, since not every answer comes by here."""
        if not self._looks_later:
            self._looks_later = True
            asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        self._looks_later = False
        self._pump_soon()


def _none(variant: str) -> int:
    """Stand in until somebody counts."""
    del variant
    return 0


class _Mirrored:
    """Responder that has a request copied when its caller is answered."""

    __slots__ = ("_request", "_responder", "_shadows", "_targets")

    def __init__(
        self,
        shadows: Shadows,
        request: InferenceRequest,
        targets: Sequence[Target],
        responder: Responder,
    ) -> None:
        self._shadows = shadows
        self._request = request
        self._targets = targets
        self._responder = responder

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Answer the caller, then copy; answers in chunks are not compared."""
        self._responder.send(response, final=final)
        if final and response.outputs:
            for target in self._targets:
                copy = target.single(self._shadows, self._request, response)
                self._shadows.offer(copy, response.timing)

    def fail(self, error: SalverError) -> None:
        """Tell the caller; nothing is left to compare."""
        self._responder.fail(error)


class _Mirror:
    """Stands before an audience, and has copied what it is answered."""

    __slots__ = ("_audience", "_is_answering", "_shadows")

    def __init__(self, shadows: Shadows, audience: Audience) -> None:
        self._shadows = shadows
        self._audience = audience
        self._is_answering = False

    def seated(self, cohort: Cohort) -> None:
        """Pass it on."""
        self._audience.seated(cohort)

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Answer the callers, then copy."""
        # An audience that answers them one by one asks for responders; all are copied below.
        self._is_answering = True
        try:
            self._audience.answer(pieces, response)
        finally:
            self._is_answering = False
        self._shadows.observe(response.timings[-1])
        position = 0
        for cohort, start, stop in pieces:
            end = position + stop - start
            self._shadows.answered(cohort, start, stop, response.part(position, end))
            position = end

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Return one that has its request copied as if it had come by itself."""
        responder = self._audience.responder(cohort, index, request, context)
        if self._is_answering:
            return responder
        return self._shadows.mirrored(request, context, responder)
