"""What control makes of reports: counts in the plan, bounds, and refusals."""

import msgspec
import pytest

from salver.control.desired import Arm, Desired, Observed
from salver.control.planner import next_plan
from salver.control.scaling import Scaler
from salver.control.usage import usage_of
from salver.core.clock import ManualClock
from salver.core.errors import InvalidRequest, InvalidSettings, WorkerLimit
from salver.core.routing import FULL, SHADOW
from salver.core.settings import AutoscaleSettings, Settings
from salver.registry.records import EndpointSpec
from salver.scale.autoscale.history import Usage
from salver.scale.autoscale.telemetry import Report
from salver.wire.messages import HistogramSample, Plan, Sample, Snapshot, VariantState
from tests.control.test_planner import ADDRESS, EMPTY, coded, version

SCALED = {"max_replicas": 8, "scale_on": "rate", "scale_target": 10.0, "scale_down_delay_s": 0.0}


EXACT = AutoscaleSettings(target_utilisation=1.0)


class Control:
    """The loop that makes plans, with reports of one gateway and workers that are soon ready."""

    def __init__(self, plan: Plan = EMPTY, settings: AutoscaleSettings = EXACT) -> None:
        self.clock = ManualClock()
        self.scaler = Scaler(Settings(autoscale=settings), self.clock)
        self.plan = plan
        self.asked = dict.fromkeys(("a:1", "b:1"), 0.0)
        self.desired: list[Desired] = []
        self._number = 0

    def run(self, seconds: int, desired: list[Desired], **rates: float) -> dict[str, int]:
        """Reconcile once a second while endpoints are asked; returns the counts in the plan."""
        for _ in range(seconds):
            self.clock.advance(1.0)
            self._number += 1
            for name, rate in rates.items():
                self.asked[f"{name}:1"] += rate
            ready = {
                worker.id: {load.variant: VariantState(load.variant, "ready") for load in loads}
                for worker in self.plan.workers
                if (loads := worker.loads)
            }
            observed = Observed(ready, self.plan.number)
            self.desired = self.scaler.apply(desired, observed, self._reports, self.plan)
            plan = next_plan(self.desired, observed, self.plan, ADDRESS)
            self.plan = msgspec.structs.replace(plan, number=self.plan.number + 1)
        return {endpoint.name: endpoint.replicas for endpoint in self.plan.endpoints}

    def hosts(self, variant: str) -> list[str]:
        """Return the workers that host a version, besides quarantines."""
        return [
            worker.id
            for worker in self.plan.workers
            if worker.kind != "quarantine" and variant in [load.variant for load in worker.loads]
        ]

    def _reports(self) -> list[Report]:
        usage = {name: Usage(0.0, count, count) for name, count in self.asked.items()}
        return [Report("gateway-0", "i", self._number, self.clock.monotonic_ns(), usage)]


def want(name: str, **spec: object) -> Desired:
    """Want an endpoint for a version that is code, and has workers of its own."""
    base = EndpointSpec(name, name, 1)
    return Desired(msgspec.structs.replace(base, **spec), coded(1, name))


def test_the_plan_follows_what_is_asked_and_workers_leave_after_their_routes() -> None:
    """More workers for more requests, fewer afterwards; without a maximum the number stays."""
    control = Control()
    desired = [want("a", **SCALED), want("b", replicas=2)]
    assert control.run(30, desired, a=5.0, b=500.0) == {"a": 1, "b": 2}
    assert control.run(20, desired, a=45.0)["a"] == 5
    assert len(control.hosts("a:1")) == 5
    assert len(control.plan.endpoints[0].variants[0].workers) == 5
    assert control.run(300, desired, a=5.0) == {"a": 1, "b": 2}
    assert control.hosts("a:1") == ["dedicated-a-1-0"]


def test_a_restart_of_control_begins_with_the_plan() -> None:
    """The new process knows no load yet, and still changes nothing for a whole window."""
    before = Control()
    desired = [want("a", **SCALED)]
    before.run(30, desired, a=45.0)
    after = Control(before.plan)
    assert after.run(1, desired) == {"a": 5}
    assert after.run(55, desired) == {"a": 5}
    assert after.run(60, desired) == {"a": 1}


def test_a_plan_of_an_older_control_counts_its_routes() -> None:
    """It does not say how many replicas there are, but who is asked."""
    before = Control()
    before.run(10, [want("a", replicas=3)])
    endpoints = [msgspec.structs.replace(e, replicas=0) for e in before.plan.endpoints]
    after = Control(msgspec.structs.replace(before.plan, endpoints=tuple(endpoints)))
    assert after.run(1, [want("a", **SCALED)]) == {"a": 3}


def test_new_bounds_hold_at_once() -> None:
    """A deploy with another range moves the number into it without waiting for anything."""
    control = Control()
    assert control.run(1, [want("a", **SCALED)]) == {"a": 1}
    raised = {**SCALED, "min_replicas": 3}
    assert control.run(1, [want("a", **raised)]) == {"a": 3}
    assert control.run(1, [want("a", **{**SCALED, "max_replicas": 2})]) == {"a": 2}
    assert control.run(1, [want("a", replicas=4)]) == {"a": 4}


def test_a_floor_of_none_leaves_one_ordinary_worker() -> None:
    """Zero is not for autoscaling to reach."""
    control = Control()
    assert control.run(200, [want("a", **SCALED, min_replicas=0)]) == {"a": 1}


def test_the_machine_has_a_limit_and_the_reason_names_it() -> None:
    """Of four workers one is another endpoint's, or two while it has a second version."""
    control = Control(settings=AutoscaleSettings(target_utilisation=1.0, max_workers=4))
    desired = [want("a", **SCALED), want("b", replicas=1)]
    assert control.run(30, desired, a=60.0)["a"] == 3
    assert "[worker_limit]" in control.scaler.scalings["a"].reason
    beside = (Arm(coded(2, "b"), "canary", weight=500),)
    control = Control(settings=AutoscaleSettings(target_utilisation=1.0, max_workers=4))
    desired[1] = msgspec.structs.replace(desired[1], arms=beside)
    assert control.run(30, desired, a=60.0)["a"] == 2


def test_shared_workers_are_counted_once() -> None:
    """Two endpoints that share workers need no more than the larger one."""
    spec = EndpointSpec("a", "a", 1)
    shared = Desired(msgspec.structs.replace(spec, **SCALED), version(1, "a"))
    other = Desired(EndpointSpec("b", "b", 1, replicas=4), version(1, "b"))
    control = Control(settings=AutoscaleSettings(target_utilisation=1.0, max_workers=4))
    assert control.run(30, [shared, other], a=35.0) == {"a": 4, "b": 4}


def test_only_what_takes_a_worker_counts() -> None:
    """Answers from memory and the caller's own mistakes are left out, what waits is not."""
    labels = ("default", "e", "m:1", "1")
    snapshot = Snapshot(
        1,
        1,
        1,
        "ready",
        0,
        (),
        (
            Sample("salver_requests_total", (*labels, "ok"), 100.0),
            Sample("salver_requests_total", (*labels, "invalid_tensor"), 50.0),
            Sample("salver_requests_total", (*labels, "overloaded"), 3.0),
            Sample("salver_requests_total", (*labels, "cancelled"), 2.0),
            Sample("salver_request_open_seconds_total", ("m:1",), 7.5),
        ),
        (
            Sample("salver_requests_open", ("m:1",), 4.0),
            Sample("salver_requests_waiting", ("m:1",), 6.0),
        ),
        (HistogramSample("salver_run_seconds", labels, (20, 10), 1.5),),
    )
    assert usage_of(snapshot) == {"m:1": Usage(7.5, 45.0, 35.0, 1.5)}


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"scale_on": "weather"}, InvalidRequest),
        ({"min_replicas": 3, "max_replicas": 2}, InvalidRequest),
        ({"replicas": 3, "max_replicas": 2}, InvalidRequest),
        ({"min_replicas": 2}, InvalidRequest),
        ({"scale_target": 5.0}, InvalidRequest),
        ({"scale_down_delay_s": 5.0}, InvalidRequest),
        ({"min_replicas": 33, "max_replicas": 64}, WorkerLimit),
    ],
)
def test_what_cannot_be_is_refused(
    spec: dict[str, object], error: type[InvalidRequest | WorkerLimit]
) -> None:
    """With an error that says what to give instead."""
    wanted = msgspec.structs.replace(EndpointSpec("a", "a", 1), **spec)
    with pytest.raises(error):
        Control().scaler.rules.check(wanted)
    for fine in ({}, {"min_replicas": 0}, {"replicas": 40}, SCALED):
        Control().scaler.rules.check(msgspec.structs.replace(EndpointSpec("a", "a", 1), **fine))


@pytest.mark.parametrize(
    "settings",
    [
        AutoscaleSettings(interval_s=0.0),
        AutoscaleSettings(stable_window_s=0.0),
        AutoscaleSettings(panic_window_ratio=1.5),
        AutoscaleSettings(panic_threshold=1.0),
        AutoscaleSettings(target_utilisation=0.0),
        AutoscaleSettings(max_workers=0),
        AutoscaleSettings(scale_down_delay_s=-1.0),
    ],
)
def test_settings_that_cannot_be_stop_control_at_its_start(settings: AutoscaleSettings) -> None:
    """The message names the setting, its value and what it may be."""
    with pytest.raises(InvalidSettings, match=r"setting autoscale\.\w+ must be .*, not "):
        Control(settings=settings)


class Copying(Control):
    """A gateway with two requests open, and sixty copies that nobody waits for."""

    def _reports(self) -> list[Report]:
        n = float(self._number)
        usage = {"a:1": Usage(2.0 * n, 5.0 * n, 5.0 * n, n), "a:2": Usage(60.0 * n, 0.0, 0.0, 0.0)}
        return [Report("gateway-0", "i", self._number, self.clock.monotonic_ns(), usage)]


@pytest.mark.parametrize(("measure", "target"), [("concurrency", 10.0), ("queue", 300.0)])
def test_copies_ask_for_no_workers(measure: str, target: float) -> None:
    """A shadow that is slow leaves the endpoint as large as it would be without."""
    plain = want("a", max_replicas=8, scale_on=measure, scale_target=target)
    arm = Arm(coded(2, "a"), SHADOW, sample=FULL, alone=True, background=True, replicas=1)
    shadowed = msgspec.structs.replace(plain, arms=(arm,))
    assert Copying().run(120, [plain]) == {"a": 1}
    assert Copying().run(120, [shadowed]) == {"a": 1}
