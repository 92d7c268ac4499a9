"""Lets the replicas of endpoints follow what is asked of them, from what gateways report."""

from collections.abc import Sequence
from functools import partial

import msgspec

from salver.control.hub import GATEWAY, Hub
from salver.control.planner import Desired, Observed, placement, ready_workers
from salver.control.usage import usage_of
from salver.core.clock import Clock
from salver.core.errors import InvalidRequest, InvalidSettings, WorkerLimit
from salver.core.settings import AutoscaleSettings, Settings
from salver.registry.records import EndpointSpec
from salver.scale.autoscale.autoscaler import Autoscaler, Subject
from salver.scale.autoscale.decider import Decision
from salver.scale.autoscale.policy import METRICS, QUEUE, RATE, Pace, Policy
from salver.scale.autoscale.room import Ask, share
from salver.scale.autoscale.telemetry import Report
from salver.wire.messages import EndpointPlan, Plan, Sample

_MS = 1000
_S_NS = 1_000_000_000
_SHORTEST_GAP_S = 10.0
_HOUR_S = 3600


class Scaling(msgspec.Struct, frozen=True):
    """What was decided last for one endpoint, and what it was before."""

    count: int
    before: int
    reason: str
    panics: bool = False


class Scaler:
    """Decides every ``interval_s``, when the loop that makes plans asks.

    How many replicas an endpoint has is in the plan, which outlives control.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = own = settings.autoscale
        self._clock = clock
        self._pace = pace_of(own)
        snapshot_s = settings.control.snapshot_interval_s
        gap_s = max(_SHORTEST_GAP_S, 5 * (own.interval_s + snapshot_s))
        self._autoscaler = Autoscaler(own.stable_window_s, 3 * snapshot_s + own.interval_s, gap_s)
        self._looked_ns: int | None = None
        self.scalings: dict[str, Scaling] = {}

    def check(self, spec: EndpointSpec) -> None:
        """Raise ``InvalidRequest`` or ``WorkerLimit`` for what cannot be."""
        if spec.scale_on not in METRICS:
            raise InvalidRequest(f"scale_on is one of {', '.join(METRICS)}")
        least = spec.replicas if spec.min_replicas is None else spec.min_replicas
        most = spec.replicas if spec.max_replicas is None else spec.max_replicas
        if least > most:
            raise InvalidRequest(
                f"at least {least} and at most {most} replicas cannot be; give a larger "
                "max_replicas or a smaller min_replicas"
            )
        if spec.max_replicas is None:
            if spec.scale_target is not None or spec.scale_down_delay_s is not None:
                raise InvalidRequest(
                    "scale_target and scale_down_delay_s do nothing without max_replicas"
                )
        elif least > self._settings.max_workers:
            raise WorkerLimit(
                f"at least {least} replicas are more than the {self._settings.max_workers} workers "
                "that autoscaling may use; raise autoscale.max_workers"
            )

    def policy(self, spec: EndpointSpec) -> Policy:
        """Return by what an endpoint is scaled; a floor of none is not for this to reach."""
        own = self._settings
        least = max(1, spec.replicas if spec.min_replicas is None else spec.min_replicas)
        target = spec.scale_target
        if spec.scale_on == QUEUE:
            target = (own.queue_ms if target is None else target) / _MS
        else:
            usual = own.rate_per_s if spec.scale_on == RATE else own.concurrency
            target = (usual if target is None else target) * own.target_utilisation
        delay_s = spec.scale_down_delay_s
        return Policy(
            least,
            max(least, spec.max_replicas or 0),
            spec.scale_on,
            target,
            own.scale_down_delay_s if delay_s is None else delay_s,
            self._pace,
        )

    def apply(
        self, desired: Sequence[Desired], observed: Observed, hub: Hub, plan: Plan
    ) -> list[Desired]:
        """Return what is wanted with as many replicas as were decided."""
        scaled = [item for item in desired if item.spec.max_replicas is not None]
        planned = {endpoint.name: endpoint for endpoint in plan.endpoints}
        known = self.scalings
        self.scalings = {
            item.spec.name: self._present(item, known, planned.get(item.spec.name))
            for item in scaled
        }
        now_ns = self._clock.monotonic_ns()
        due_ns = round(self._settings.interval_s * _S_NS)
        if self._looked_ns is None or not 0 <= now_ns - self._looked_ns < due_ns:
            self._looked_ns = now_ns
            if scaled:
                self._look(now_ns, desired, observed, hub, planned)
        return [self._with_count(item) for item in desired]

    def changes(self, plan: Plan) -> dict[str, Scaling]:
        """Return the decisions that make something else of a plan."""
        planned = {endpoint.name: endpoint.replicas for endpoint in plan.endpoints}
        return {
            name: msgspec.structs.replace(scaling, before=planned[name])
            for name, scaling in self.scalings.items()
            if planned.get(name, 0) not in (0, scaling.count)
        }

    def gauges(self, desired: Sequence[Desired], observed: Observed) -> tuple[Sample, ...]:
        """Return how many replicas every endpoint shall have and has, and who panics."""
        samples: list[Sample] = []
        for item in desired:
            name = (item.spec.name,)
            ready = len(ready_workers(item, observed))
            samples.append(Sample("salver_replicas_wanted", name, item.count))
            samples.append(Sample("salver_replicas_ready", name, ready))
        samples += [
            Sample("salver_autoscale_panic", (name,), float(scaling.panics))
            for name, scaling in self.scalings.items()
        ]
        return tuple(samples)

    def _present(
        self, item: Desired, known: dict[str, Scaling], planned: EndpointPlan | None
    ) -> Scaling:
        """Return how many there are: as decided, else as planned, else as was asked for."""
        policy, before = self.policy(item.spec), known.get(item.spec.name)
        if before is not None:
            return msgspec.structs.replace(before, count=policy.clamp(before.count))
        count = item.spec.replicas
        if planned is not None:
            routed = len(planned.variants[0].workers) if planned.variants else 0
            count = planned.replicas or routed or count
        count = policy.clamp(count)
        return Scaling(count, count, "no telemetry yet")

    def _with_count(self, item: Desired) -> Desired:
        scaling = self.scalings.get(item.spec.name)
        if scaling is None:
            return item
        return msgspec.structs.replace(item, replicas=scaling.count)

    def _look(
        self,
        now_ns: int,
        desired: Sequence[Desired],
        observed: Observed,
        hub: Hub,
        planned: dict[str, EndpointPlan],
    ) -> None:
        subjects: dict[str, Subject] = {}
        for item in desired:
            name = item.spec.name
            if name in self.scalings and item.version is not None:
                endpoint = planned.get(name)
                routed = endpoint.variants if endpoint is not None else ()
                present = self._with_count(item)
                subjects[name] = Subject(
                    self.policy(item.spec),
                    present.count,
                    len(ready_workers(present, observed)),
                    {item.version.id, *(variant.id for variant in routed)},
                )
        decisions = self._autoscaler.look(now_ns, _reports(hub), subjects)
        counts = self._shared(desired, observed, decisions)
        for name, decision in decisions.items():
            count, reason = counts[name], decision.reason
            if count < decision.wanted:
                self._autoscaler.grant(name, count)
                reason = (
                    f"{reason}; {decision.wanted} wanted, but there are "
                    f"{self._settings.max_workers} workers [{WorkerLimit.code}]"
                )
            before = self.scalings[name].count
            self.scalings[name] = Scaling(count, before, reason, decision.panics)

    def _shared(
        self, desired: Sequence[Desired], observed: Observed, decisions: dict[str, Decision]
    ) -> dict[str, int]:
        """Return what each gets of the workers that this machine takes."""
        asks: dict[str, Ask] = {}
        fixed: set[str] = set()
        for item in desired:
            name = item.spec.name
            if name in decisions:
                least = self.policy(item.spec).least
                asks[name] = Ask(
                    least,
                    self.scalings[name].count,
                    decisions[name].wanted,
                    partial(_workers, item, observed),
                )
            elif item.version is not None:
                fixed.update(placement(self._with_count(item), observed))
        return share(asks, fixed, self._settings.max_workers)


def _workers(item: Desired, observed: Observed, count: int) -> tuple[str, ...]:
    """Return the workers of so many replicas of an endpoint."""
    return placement(msgspec.structs.replace(item, replicas=count), observed)


def pace_of(settings: AutoscaleSettings) -> Pace:
    """Return how fast to follow; raises ``InvalidSettings`` for what cannot be."""
    rules = (
        ("interval_s", settings.interval_s > 0, "more than 0"),
        ("stable_window_s", 1 <= settings.stable_window_s <= _HOUR_S, "from 1 to 3600"),
        ("panic_window_ratio", 0 < settings.panic_window_ratio <= 1, "from 0 to 1"),
        ("panic_threshold", settings.panic_threshold > 1, "more than 1"),
        ("max_scale_up_rate", settings.max_scale_up_rate > 1, "more than 1"),
        ("max_scale_down_rate", settings.max_scale_down_rate > 1, "more than 1"),
        ("scale_down_delay_s", 0 <= settings.scale_down_delay_s <= _HOUR_S, "from 0 to 3600"),
        ("target_utilisation", 0 < settings.target_utilisation <= 1, "from 0 to 1"),
        ("concurrency", settings.concurrency > 0, "more than 0"),
        ("rate_per_s", settings.rate_per_s > 0, "more than 0"),
        ("queue_ms", settings.queue_ms > 0, "more than 0"),
        ("max_workers", settings.max_workers >= 1, "at least 1"),
    )
    for name, holds, wanted in rules:
        if not holds:
            raise InvalidSettings(
                f"setting autoscale.{name} must be {wanted}, not {getattr(settings, name)!r}"
            )
    return Pace(
        settings.stable_window_s,
        settings.stable_window_s * settings.panic_window_ratio,
        settings.panic_threshold,
        settings.max_scale_up_rate,
        settings.max_scale_down_rate,
    )


def _reports(hub: Hub) -> list[Report]:
    return [
        Report(
            peer.hello.identity,
            peer.hello.incarnation,
            peer.snapshot.number,
            peer.received_ns,
            usage_of(peer.snapshot),
        )
        for peer in hub.peers(GATEWAY)
        if peer.snapshot is not None
    ]
