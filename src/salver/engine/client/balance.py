"""Keeps the routes from the workers that do worse than their peers."""

from collections.abc import Callable, Sequence

from salver.core.clock import Clock
from salver.core.settings import EngineSettings
from salver.engine.client.ejection import EjectionPolicy, Ejections
from salver.engine.client.pending import VariantRoute
from salver.observe.logs import get_logger
from salver.observe.meter import Meter
from salver.observe.outcomes import Outcome
from salver.wire.messages import Plan

log = get_logger(__name__)


def ejection_policy(settings: EngineSettings) -> EjectionPolicy:
    """Return what the settings ask for."""
    return EjectionPolicy(
        failures=settings.eject_failures,
        latency_ratio=settings.eject_latency_ratio,
        base_ns=round(settings.eject_s * 1e9),
    )


class Balance:
    """Judges the workers of each variant by finished exchanges."""

    def __init__(
        self,
        find: Callable[[str], VariantRoute | None],
        policy: EjectionPolicy,
        clock: Clock,
        meter: Meter,
    ) -> None:
        self._find = find
        self._policy = policy
        self._clock = clock
        self._meter = meter
        self._variants: dict[str, Ejections] = {}

    def apply(self, plan: Plan) -> None:
        """Know the variants and workers of this plan from now on."""
        previous, self._variants = self._variants, {}
        now_ns = self._clock.monotonic_ns()
        for endpoint in plan.endpoints:
            for variant in endpoint.variants:
                one = previous.pop(variant.id, None) or Ejections(self._policy, now_ns)
                one.know(variant.workers)
                self._variants[variant.id] = one
        for gone in previous:
            self._meter.forget("salver_workers_ejected", (gone,))

    def counted(self, outcomes: Sequence[Outcome]) -> None:
        """Take note of how requests ended."""
        now_ns = self._clock.monotonic_ns()
        for outcome in outcomes:
            variant = self._variants.get(outcome.variant)
            if variant is not None and outcome.worker:
                stalled = outcome.longest_late_ns >= self._policy.stall_ns
                failed = outcome.failed + (outcome.late if stalled else 0)
                variant.record(outcome, failed, now_ns)
        self.refresh()

    def refresh(self) -> None:
        """Judge, and let those back whose time is over."""
        now_ns = self._clock.monotonic_ns()
        for name, variant in self._variants.items():
            for worker, reason in variant.judge(now_ns):
                self._meter.add("salver_worker_ejections_total", (name, worker, reason))
                log.warning("worker_ejected", variant=name, worker=worker, reason=reason)
            route, ejected = self._find(name), variant.ejected(now_ns)
            if route is not None and route.ejected != ejected:
                route.ejected = ejected
                self._meter.set("salver_workers_ejected", (name,), len(ejected))
