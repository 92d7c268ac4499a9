"""What rollouts and experiments compare: its values, its place, and how long it is kept."""

from pathlib import Path

import pytest
import uvloop

from salver.control.feedback import Feedback, Limit, Wanted
from salver.control.rollouts.wanted import WantedMetrics
from salver.core.clock import ManualClock
from salver.core.errors import InvalidRequest, InvalidSettings
from salver.core.feedback import SHARES, Bounds, Reported
from salver.core.ids import RequestIds
from salver.core.rollouts import RolloutPolicy
from salver.core.sides import EXPERIMENT, SHADOW, Side, SideArm
from salver.registry.feedback import MAX_METRICS, FeedbackStore
from salver.registry.records import EndpointSpec
from salver.rollout.machine import Rollout
from salver.rollout.policy import MetricSpec, Policy
from tests.control.parts import Control, control

RATE = {"name": "paid", "kind": "feedback_rate", "max_increase": 0.01}
MEAN = {"name": "revenue", "kind": "feedback_mean", "max_increase": 0.01}
BOTH = {"name": "b", "kind": "feedback_mean", "max_increase": 0.01, "label": "paid"}

PAID = frozenset(("paid",))


def begin(parts: Control, *metrics: dict[str, object], endpoint: str = "e") -> None:
    """Let a rollout be judged by these metrics."""
    policy = RolloutPolicy(analysis={"metrics": list(metrics)})
    parts.state.put_endpoint(EndpointSpec(endpoint, "m", 1))
    parts.begin(Rollout(endpoint, 0, "m:1", "m:2", policy, "salt", 0, "somebody"))


def test_a_value_that_is_no_share_is_refused_while_a_rollout_compares_shares(
    tmp_path: Path,
) -> None:
    """Other metrics take it, and so does the same name where nobody takes it for a share."""
    clock = ManualClock()
    parts = control(tmp_path, "one", clock)
    ids = RequestIds(b"k" * 32, 1, clock)
    feedback = Feedback(FeedbackStore(parts.database), parts.state, parts.thread, ids, clock, 30)
    feedback.wanted = WantedMetrics(parts.store, parts.sides)
    begin(parts, RATE, MEAN)
    parts.state.put_endpoint(EndpointSpec("other", "m", 1))

    def report(value: float, metric: str, endpoint: str = "e") -> Reported:
        return Reported(ids.seal(ids.make(), endpoint, 2, 7, 12), value, metric)

    sent = [report(v, "paid") for v in (1e9, -1.0, 1.0, 0.0, 0.5)] + [report(12.5, "revenue")]
    taken = uvloop.run(feedback.take("e", sent))
    assert taken.taken == 4
    assert [(p.number, p.code) for p in taken.problems] == [
        (1, "invalid_request"),
        (2, "invalid_request"),
    ]
    assert "compares 'paid' by values from 0 to 1; report others" in taken.problems[0].error
    assert uvloop.run(feedback.take("other", [report(5.0, "paid", "other")])).taken == 1
    parts.thread.stop()


def test_what_is_compared_as_a_mean_too_takes_any_value(tmp_path: Path) -> None:
    """Nor is anything refused for a policy that cannot be read."""
    parts = control(tmp_path, "one", ManualClock())
    begin(parts, RATE, BOTH)
    begin(parts, RATE, endpoint="f")
    begin(parts, {**RATE, "max_increase": -1.0}, endpoint="g")
    found = WantedMetrics(parts.store, parts.sides)()
    limits = {"paid": (Limit(SHARES),)}
    assert found == {"e": Wanted(PAID), "f": Wanted(PAID, limits)}
    parts.thread.stop()


def test_declared_bounds_of_a_mean_are_those_of_its_reports(tmp_path: Path) -> None:
    """While the rollout goes on, and for each metric that compares the name."""
    parts = control(tmp_path, "one", ManualClock())
    begin(parts, {**MEAN, "minimum": 0, "maximum": 500}, {**MEAN, "name": "m", "label": "revenue"})
    (limit,) = WantedMetrics(parts.store, parts.sides)()["e"].limits["revenue"]
    assert limit == Limit(Bounds(0.0, 500.0))
    parts.thread.stop()


@pytest.mark.parametrize(
    "spec",
    [
        MetricSpec("a", "feedback_rate", 0.1, maximum=1.0),
        MetricSpec("a", "error_rate", 0.1, minimum=0.0),
        MetricSpec("a", "feedback_mean", 0.1, minimum=1.0, maximum=1.0),
        MetricSpec("a", "feedback_mean", 0.1, minimum=2.0, maximum=1.0),
        MetricSpec("a", "feedback_mean", 0.1, maximum=float("nan")),
    ],
)
def test_bounds_that_cannot_be_are_refused(spec: MetricSpec) -> None:
    """When the rollout is to begin, with the metric's name."""
    with pytest.raises(InvalidSettings, match="'a'"):
        Policy(metrics=(spec,)).validate()


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "words"),
    [
        (Bounds(0.0, 5.0), (0.0, 5.0), (-0.1, 5.1), "from 0 to 5"),
        (Bounds(minimum=0.0), (0.0, 1e9), (-1.0,), "of at least 0"),
        (Bounds(maximum=5.0), (-1e9, 5.0), (6.0,), "of at most 5"),
        (Bounds(), (-1e9, 1e9), (), "of any size"),
    ],
)
def test_bounds_hold_with_both_ends(
    bounds: Bounds, good: tuple[float, ...], bad: tuple[float, ...], words: str
) -> None:
    """One of them may be open; in words they say what is taken."""
    bounds.validate()
    assert all(map(bounds.hold, good))
    assert not any(map(bounds.hold, bad))
    assert str(bounds) == words
    with pytest.raises(InvalidRequest, match="'minimum' is a number below 'maximum'"):
        Bounds(1.0, 0.0).validate()


def test_an_experiments_bounds_are_those_of_its_own_answers(tmp_path: Path) -> None:
    """Also after its end, when feedback still counts; other answers take any value."""
    clock = ManualClock()
    parts = control(tmp_path, "one", clock)
    ids, store = RequestIds(b"k" * 32, 1, clock), FeedbackStore(parts.database)
    feedback = Feedback(store, parts.state, parts.thread, ids, clock, 30)
    feedback.wanted = WantedMetrics(parts.store, parts.sides)
    parts.state.put_endpoint(EndpointSpec("e", "m", 1))
    arms = (SideArm("m:1", 5_000), SideArm("m:2", 5_000))
    parts.sides.begin(
        "e",
        lambda n: Side("e", n, EXPERIMENT, arms, "s", 5, 0, "x", "paid", bounds=Bounds(0.0, 1.0)),
    )

    def refused(value: float, epoch: int, metric: str = "paid") -> list[str]:
        report = Reported(ids.seal(ids.make(), "e", 2, epoch, 12), value, metric)
        return [problem.error for problem in uvloop.run(feedback.take("e", [report])).problems]

    for _ in range(2):
        assert "by values from 0 to 1" in refused(1e9, 6)[0]
        assert not refused(0.5, 6)
        assert not refused(7.0, 6, "revenue")
        assert not refused(7.0, 5)
        if parts.sides.newest("e", EXPERIMENT).is_active:
            parts.sides.end("e", EXPERIMENT, 9, 5)
    assert not refused(7.0, 9)
    parts.thread.stop()


def test_an_experiments_metric_is_wanted_when_it_has_ended(tmp_path: Path) -> None:
    """Its report can still be asked for; shadows read no metrics."""
    parts = control(tmp_path, "one", ManualClock())
    parts.state.put_endpoint(EndpointSpec("e", "m", 1))
    arms = (SideArm("m:1", 5_000), SideArm("m:2", 5_000))
    parts.sides.begin("e", lambda n: Side("e", n, EXPERIMENT, arms, "s", 1, 0, "x", "paid"))
    parts.sides.end("e", EXPERIMENT, 9, 5)
    parts.sides.begin("f", lambda n: Side("f", n, SHADOW, arms, "s", 1, 0, "x"))
    assert WantedMetrics(parts.store, parts.sides)() == {"e": Wanted(PAID)}
    parts.thread.stop()


def test_what_nobody_reads_is_forgotten(tmp_path: Path) -> None:
    """Names that callers made up make room in time; what a rollout compares is kept."""
    clock = ManualClock()
    parts = control(tmp_path, "one", clock)
    ids, store = RequestIds(b"k" * 32, 1, clock), FeedbackStore(parts.database)
    feedback = Feedback(store, parts.state, parts.thread, ids, clock, 30)
    feedback.wanted = WantedMetrics(parts.store, parts.sides)
    begin(parts, RATE)
    made_up = [f"m{number}" for number in range(MAX_METRICS)]

    def report(*names: str) -> int:
        sent = [Reported(ids.seal(ids.make(), "e", 2, 7, 12), 1.0, name) for name in names]
        return uvloop.run(feedback.take("e", sent)).taken

    assert report(*made_up, "more", "paid") == MAX_METRICS + 1
    clock.advance(20 * 86_400)
    assert report("m0", "more") == 1
    clock.advance(20 * 86_400)
    uvloop.run(feedback.forget_old())
    assert store.count("e") == {"m0": 2, "paid": 1}
    assert report("more") == 1
    parts.thread.stop()
