"""Lets the replicas of endpoints follow what is asked of them, from what gateways report."""

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from salver.control.desired import Desired, Observed
from salver.control.hosts import placement, ready_workers
from salver.control.scale_rules import Rules
from salver.core.clock import Clock
from salver.core.errors import WorkerLimit
from salver.core.settings import Settings
from salver.scale.autoscale.autoscaler import Autoscaler, Subject
from salver.scale.autoscale.decider import Decision
from salver.scale.autoscale.room import Ask, share
from salver.scale.autoscale.telemetry import Report
from salver.wire.messages import EndpointPlan, Plan, Sample

_S_NS = 1_000_000_000
_SHORTEST_GAP_S = 10.0


Reports = Callable[[], Sequence[Report]]


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
        self.rules = Rules(own)
        snapshot_s = settings.control.snapshot_interval_s
        gap_s = max(_SHORTEST_GAP_S, 5 * (own.interval_s + snapshot_s))
        self._autoscaler = Autoscaler(own.stable_window_s, 3 * snapshot_s + own.interval_s, gap_s)
        self._looked_ns: int | None = None
        self.scalings: dict[str, Scaling] = {}

    def apply(
        self, desired: Sequence[Desired], observed: Observed, reports: Reports, plan: Plan
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
                self._look(now_ns, desired, observed, reports, planned)
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
        policy, before = self.rules.policy(item.spec), known.get(item.spec.name)
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
        reports: Reports,
        planned: dict[str, EndpointPlan],
    ) -> None:
        subjects: dict[str, Subject] = {}
        for item in desired:
            name = item.spec.name
            if name in self.scalings and item.version is not None:
                endpoint = planned.get(name)
                # Nobody waits for a copy: those that are open ask for no worker of the endpoint.
                routed = endpoint.answering if endpoint is not None else ()
                present = self._with_count(item)
                subjects[name] = Subject(
                    self.rules.policy(item.spec),
                    present.count,
                    len(ready_workers(present, observed)),
                    {item.version.id, *(variant.id for variant in routed)},
                )
        decisions = self._autoscaler.look(now_ns, reports(), subjects)
        counts = self._shared(desired, observed, decisions)
        for name, decision in decisions.items():
            count, reason = counts[name], decision.reason
            if count < decision.wanted:
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
                least = self.rules.policy(item.spec).least
                asks[name] = Ask(
                    least,
                    self.scalings[name].count,
                    decisions[name].wanted,
                    partial(_workers, item, observed),
                )
            elif item.version is not None:
                fixed.update(_workers(item, observed, self._with_count(item).count))
        return share(asks, fixed, self._settings.max_workers)


def _workers(item: Desired, observed: Observed, count: int) -> tuple[str, ...]:
    """Return the workers of so many replicas of an endpoint, of all its versions."""
    versions = msgspec.structs.replace(item, replicas=count).each()
    return tuple(worker for one in versions for worker in placement(one, observed))
