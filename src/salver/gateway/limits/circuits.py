"""Handler that refuses requests for variants whose breaker is open."""

from collections.abc import Sequence
from typing import Final, Protocol

from salver.core.clock import Clock
from salver.core.cohort import Cohort, many_of, one_by_one
from salver.core.context import RequestContext
from salver.core.errors import CircuitOpen, DeadlineExceeded, SalverError
from salver.core.exchange import JointExchange, Record
from salver.core.handler import Handler, Responder
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.settings import LimitSettings
from salver.gateway.limits.breaker import Breaker, BreakerPolicy, Ends, State
from salver.observe.logs import get_logger
from salver.observe.meter import Meter
from salver.observe.outcomes import FAILURES, STALLED_NS, Outcome, stalled
from salver.wire.messages import Plan

log = get_logger(__name__)

# How soon a caller is asked to come back while probes are out.
_PROBING_RETRY_S: Final = 1.0


def breaker_policy(settings: LimitSettings) -> BreakerPolicy:
    """Return what the settings ask for."""
    return BreakerPolicy(
        failure_ratio=settings.breaker_ratio,
        min_requests=settings.breaker_min_requests,
        window_ns=round(settings.breaker_window_s * 1e9),
        open_ns=round(settings.breaker_open_s * 1e9),
        max_open_ns=round(settings.breaker_max_open_s * 1e9),
        probes=settings.breaker_probes,
    )


class CircuitBreakers:
    """One breaker for each variant, fed by finished exchanges.

    While all are closed a request costs nothing but one look. The probes of a half-open one end
    with their answers. Those whose callers left are found by their contexts, among the finished
    exchanges or, where a handler before this one asks in a name of its own, when room is needed.
    """

    def __init__(self, inner: Handler, policy: BreakerPolicy, clock: Clock, meter: Meter) -> None:
        self._inner = inner
        self._inner_many = many_of(inner)
        self._policy = policy
        self._clock = clock
        self._meter = meter
        self._breakers: dict[str, Breaker] = {}
        self._tripped: dict[str, Breaker] = {}
        self._probes: dict[int, _Probe] = {}

    def apply(self, plan: Plan) -> None:
        """Know the variants of this plan from now on."""
        variants = {variant.id for endpoint in plan.endpoints for variant in endpoint.variants}
        for gone in self._breakers.keys() - variants:
            self._tripped.pop(gone, None)
            self._meter.forget("salver_breakers_open", (gone,))
        self._breakers = {
            variant: self._breakers.get(variant) or Breaker(self._policy) for variant in variants
        }

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Pass a request on unless its variant fails everybody."""
        breaker = self._tripped.get(context.variant) if self._tripped else None
        if breaker is not None and breaker.state is not State.CLOSED:
            now_ns = self._clock.monotonic_ns()
            if not breaker.admit(now_ns) and not (self._left() and breaker.admit(now_ns)):
                responder.fail(_refusal(context.variant, breaker.wait_ns(now_ns)))
                return
            responder = probe = _Probe(context, breaker, responder, now_ns, self.ended)
            self._probes[id(context)] = probe
        self._inner(request, context, responder)

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Pass cohorts on as they are where the breaker is closed."""
        if self._tripped:
            whole: list[Cohort] = []
            for cohort in cohorts:
                if cohort.context.variant in self._tripped:
                    one_by_one(self, cohort)
                else:
                    whole.append(cohort)
            cohorts = whole
        if cohorts:
            self._inner_many(cohorts)

    def counted(self, outcomes: Sequence[Outcome]) -> None:
        """Take note of how requests ended."""
        now_ns = self._clock.monotonic_ns()
        for outcome in outcomes:
            breaker = self._breakers.get(outcome.variant)
            if breaker is None or not (outcome.answered or outcome.failed or outcome.stalled):
                continue
            ends = Ends(outcome.answered, outcome.failed, outcome.stalled)
            breaker.record(outcome.caller, ends, now_ns)
            if breaker.state is State.OPEN and outcome.variant not in self._tripped:
                self._tripped[outcome.variant] = breaker
                self._opened(outcome.variant)

    def probed(self, records: list[Record]) -> None:
        """Look for probes among finished exchanges; a subscriber of the ring."""
        if not self._probes:
            return
        for record in records:
            probe = self._probes.get(id(record.context))
            if probe is not None:
                self.ended(probe, good=_said(record))

    def ended(self, probe: "_Probe", *, good: bool | None) -> None:
        """Take note how a probe ended; only the first time, and only while it is one."""
        if self._probes.get(id(probe.context)) is not probe:
            return
        del self._probes[id(probe.context)]
        variant, breaker = probe.context.variant, probe.breaker
        if breaker.openings != probe.opening:
            return
        breaker.probed(good=good, now_ns=self._clock.monotonic_ns())
        if breaker.openings > probe.opening:
            self._opened(variant)
        elif breaker.state is State.CLOSED and variant in self._tripped:
            del self._tripped[variant]
            self._meter.set("salver_breakers_open", (variant,), 0)
            log.info("circuit_closed", variant=variant)

    def _left(self) -> bool:
        """End the probes that nobody waits for any more; returns whether there were any."""
        now_ns = self._clock.monotonic_ns()
        left = [probe for probe in self._probes.values() if probe.context.cancelled]
        for probe in left:
            late = now_ns >= probe.context.deadline_ns and probe.hangs(now_ns)
            self.ended(probe, good=False if late else None)
        return bool(left)

    def _opened(self, variant: str) -> None:
        self._meter.add("salver_breaker_openings_total", (variant,))
        self._meter.set("salver_breakers_open", (variant,), 1)
        log.warning("circuit_opened", variant=variant)


class _Probe:
    """Responder of a request that passed a half-open breaker; tells once how it ended."""

    def __init__(
        self,
        context: RequestContext,
        breaker: Breaker,
        inner: Responder,
        begun_ns: int,
        ended: "_Ended",
    ) -> None:
        self.context = context
        self.breaker = breaker
        self.opening = breaker.openings
        self._inner = inner
        self._begun_ns = begun_ns
        self._ended = ended

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Pass an answer on."""
        if final:
            self._ended(self, good=True)
        self._inner.send(response, final=final)

    def fail(self, error: SalverError) -> None:
        """Pass an error on."""
        late = isinstance(error, DeadlineExceeded) and self.hangs(self.context.deadline_ns)
        self._ended(self, good=False if late or error.code in FAILURES else None)
        self._inner.fail(error)

    def hangs(self, now_ns: int) -> bool:
        """Tell whether a worker has had it for long, see ``stalled``."""
        return bool(self.context.worker) and now_ns - self._begun_ns >= STALLED_NS


class _Ended(Protocol):
    def __call__(self, probe: _Probe, *, good: bool | None) -> None: ...


def _said(record: Record) -> bool | None:
    """Return whether a probe ended well; None where that says nothing about the model."""
    if isinstance(record, JointExchange) or not record.code:
        return True
    return False if record.code in FAILURES or stalled(record) else None


def _refusal(variant: str, wait_ns: int) -> CircuitOpen:
    return CircuitOpen(
        f"{variant} fails most of its requests and is given a pause; see its errors in the "
        "gateways' logs, or roll back",
        retry_after_s=wait_ns / 1e9 or _PROBING_RETRY_S,
    )
