"""Copies requests to shadows: versions whose answers nobody waits for.

A copy is sent when its caller has been answered. Copies are bounded in number and bytes, and
dropped while the gateway is busy or requests wait for the primary version, so that they can
neither delay nor fail anybody.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence

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
_MAX_MIRRORS = 1024


class Shadows:
    """Handler that passes everything on, and copies what is answered.

    ``busy`` says which share of a core the process takes.
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
        self._waiting: deque[Copy] = deque()
        self._waiting_bytes = 0
        self._open = 0
        self._queue_ratio = 0.0
        self._is_due = False

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
                    Target(endpoint.name, variant, principal, timeout_ns) for variant in shadows
                ]
        self._targets = targets
        self._mirrors.clear()

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Pass a request on."""
        targets = self._drawn(request.endpoint, context) if self._targets else ()
        if targets:
            # What comes after may change the request for the version that answers it.
            kept = msgspec.structs.replace(request, inputs=[*request.inputs], version=None)
            responder = _Mirrored(self, kept, targets, responder)
        self.inner(request, context, responder)

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
        settings = self._settings
        is_full = (
            len(self._waiting) >= settings.max_waiting
            or self._waiting_bytes + copy.size_bytes > settings.max_waiting_bytes
        )
        if is_full or self._is_busy():
            self._dropped(copy)
            return
        self._waiting.append(copy)
        self._waiting_bytes += copy.size_bytes
        self._pump_soon()

    def observe(self, timing: Timing) -> None:
        """Learn from an answer how long requests wait, beside how long they run."""
        ratio = timing.queue_ns / max(timing.run_ns, 1)
        self._queue_ratio += _SMOOTHING * (min(ratio, 100.0) - self._queue_ratio)

    def ended(self, count: int) -> None:
        """Take note that copies have come to their end."""
        self._open -= count
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
        self._is_due = False
        while self._waiting and self._open < self._settings.max_open:
            copy = self._waiting.popleft()
            self._waiting_bytes -= copy.size_bytes
            if self._is_busy():
                self._dropped(copy)
                continue
            self._open += copy.count
            copy.send()


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

    __slots__ = ("_audience", "_shadows")

    def __init__(self, shadows: Shadows, audience: Audience) -> None:
        self._shadows = shadows
        self._audience = audience

    def seated(self, cohort: Cohort) -> None:
        """Pass it on."""
        self._audience.seated(cohort)

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Answer the callers, then copy."""
        self._audience.answer(pieces, response)
        self._shadows.observe(response.timings[-1])
        position = 0
        for cohort, start, stop in pieces:
            end = position + stop - start
            self._shadows.answered(cohort, start, stop, response.part(position, end))
            position = end

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Pass it on; who is told from the others is not copied."""
        return self._audience.responder(cohort, index, request, context)
