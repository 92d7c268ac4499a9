"""The decision table: one test for each line, and that nothing seen never counts as success."""

import itertools
from typing import Any

import msgspec
import pytest

from salver.core.rollouts import RolloutPolicy
from salver.rollout.counts import Share, compare, compare_with_none
from salver.rollout.judge import (
    Decision,
    Kind,
    Standing,
    asks_a_person,
    at_once,
    decide,
    of_copies,
    stuck,
)
from salver.rollout.policy import MetricSpec, Policy
from salver.rollout.report import MetricReport, Report, SampleRatio, Verdict
from salver.rollout.states import CRASHES, PREPARING, PRIMARY_AWAY_S, Rollout, Tick

POLICY = Policy(
    metrics=(
        MetricSpec("error_rate", "error_rate", 0.001),
        MetricSpec("latency_p95", "latency", 0.03, relative=True, critical=False),
    ),
    min_requests=100,
    max_duration_s=1000.0,
    no_traffic_s=60.0,
)
STANDING = Standing(last_step=False, elapsed_s=100.0, quiet_s=0.1)
LAST = msgspec.structs.replace(STANDING, last_step=True)


def report(
    errors: Verdict = Verdict.EQUIVALENT,
    latency: Verdict = Verdict.EQUIVALENT,
    *,
    warm: bool = True,
    holds: bool = True,
    requests: int = 1000,
    counted: tuple[int, int] = (1000, 9000),
) -> Report:
    """Return a report with these verdicts."""
    metrics = tuple(
        MetricReport(
            spec.name,
            said,
            spec.critical,
            spec.max_increase,
            spec.relative,
            alpha=0.01,
            estimate=0.02,
            low=0.01,
            high=0.03,
            n_canary=counted[0] if spec.name == "latency_p95" else requests,
            n_primary=counted[1] if spec.name == "latency_p95" else requests,
        )
        for spec, said in zip(POLICY.metrics, (errors, latency), strict=True)
    )
    ratio = SampleRatio(holds=holds, expected=0.05, observed=0.04)
    return Report(warm, requests, requests, ratio, metrics if warm and holds else ())


NO_METRICS = msgspec.structs.replace(report(), metrics=())

LINES = [
    (
        "no traffic pauses",
        report(),
        Standing(last_step=True, elapsed_s=100, quiet_s=60),
        Kind.PAUSE,
    ),
    ("a wrong ratio pauses", report(holds=False), LAST, Kind.PAUSE),
    ("critical worse rolls back", report(Verdict.WORSE), STANDING, Kind.ROLL_BACK),
    ("it does so at the last step", report(Verdict.WORSE), LAST, Kind.ROLL_BACK),
    (
        "it does so beside a failed one",
        report(Verdict.WORSE, Verdict.FAILED),
        STANDING,
        Kind.ROLL_BACK,
    ),
    ("a failed metric pauses", report(latency=Verdict.FAILED), STANDING, Kind.PAUSE),
    ("a missing metric pauses", NO_METRICS, STANDING, Kind.PAUSE),
    ("not critical worse pauses", report(latency=Verdict.WORSE), STANDING, Kind.PAUSE),
    ("too long pauses", report(), Standing(True, 1000, 0), Kind.PAUSE),
    ("cold holds", report(warm=False), LAST, Kind.HOLD),
    ("few requests hold", report(requests=99), LAST, Kind.HOLD),
    ("no worse advances", report(Verdict.NOT_ENOUGH, Verdict.NOT_ENOUGH), STANDING, Kind.ADVANCE),
    ("unproven holds", report(Verdict.NOT_ENOUGH), LAST, Kind.HOLD),
    (
        "a metric without counts of the canary pauses",
        report(latency=Verdict.NOT_ENOUGH, counted=(0, 9000)),
        LAST,
        Kind.PAUSE,
    ),
    (
        "a metric without counts of the primary pauses",
        report(latency=Verdict.NOT_ENOUGH, counted=(1000, 0)),
        LAST,
        Kind.PAUSE,
    ),
    (
        "it stops no step, since counts may come late",
        report(latency=Verdict.NOT_ENOUGH, counted=(0, 0)),
        STANDING,
        Kind.ADVANCE,
    ),
    ("proven promotes", report(Verdict.BETTER, Verdict.NOT_ENOUGH), LAST, Kind.PROMOTE),
]


@pytest.mark.parametrize(("name", "seen", "standing", "kind"), LINES, ids=[x[0] for x in LINES])
def test_a_line_of_the_table(name: str, seen: Report, standing: Standing, kind: Kind) -> None:
    """What is seen leads to what the table says, with a reason for a person."""
    decision = decide(seen, POLICY, standing)
    assert decision.kind is kind, name
    assert decision.reason


CANARY = Rollout("e", 1, "m:1", "m:2", RolloutPolicy(auto=True), "", 0, "me", step=0, weight=500)
SEEN = Tick(1.0, is_ready=True, is_primary_ready=True)


def changed(**fields: Any) -> Rollout:
    """Return the rollout with other values."""
    return msgspec.structs.replace(CANARY, **fields)


def test_the_lines_of_every_look() -> None:
    """A canary that does not come up or stay up goes; who is stuck asks a person."""
    assert at_once(CANARY, SEEN) == stuck(CANARY, SEEN) == ""
    broken = msgspec.structs.replace(SEEN, failure="bad file")
    assert "cannot be loaded: bad file" in at_once(CANARY, broken)
    assert at_once(changed(crashes=CRASHES - 1), SEEN) == ""
    assert f"{CRASHES} times" in at_once(changed(crashes=CRASHES), SEEN)
    assert "m:1, the primary" in stuck(changed(away_s=PRIMARY_AWAY_S), SEEN)
    late = changed(step=PREPARING, step_s=600.0)
    assert "m:2 cannot answer" in stuck(late, msgspec.structs.replace(SEEN, is_ready=False))
    assert stuck(late, SEEN) == ""
    assert "has taken 1800 s" in stuck(changed(running_s=1800.0), SEEN)
    # While an analysis goes on nobody has counted.
    assert stuck(changed(quiet_s=60.0), SEEN) == ""
    counted = msgspec.structs.replace(SEEN, requests=0)
    assert "no request for 60 s" in stuck(changed(quiet_s=60.0), counted)
    assert stuck(changed(quiet_s=60.0, weight=0), SEEN) == ""
    assert stuck(CANARY, msgspec.structs.replace(SEEN, problem="it raised")) == "it raised"


def test_a_person_is_asked() -> None:
    """Unless the rollout may promote by itself, and enough people approve."""
    assert not asks_a_person(CANARY)
    assert asks_a_person(changed(policy=RolloutPolicy(auto=False)))
    assert asks_a_person(changed(approvals=1))


COPIES = 100_000


def copied(failed: int, slow: int, differing: int, compared: int = COPIES) -> Decision:
    """Return what so many of the copies lead to."""
    return of_copies(
        compare_with_none("failed_copies", Share(failed, COPIES), 0.001, critical=True),
        compare("slow_copies", Share(slow, COPIES), Share(0, COPIES), 0.03, critical=False),
        compare_with_none("differing_copies", Share(differing, compared), 0.1, critical=False),
    )


def test_the_lines_for_copies() -> None:
    """Failures roll back, late and differing answers ask, and nothing unknown is promoted."""
    assert copied(0, 0, 0).kind is Kind.PROMOTE
    assert copied(1_000, 50_000, 50_000).kind is Kind.ROLL_BACK
    assert copied(0, 50_000, 0).kind is Kind.PAUSE
    assert copied(0, 0, 50_000).kind is Kind.PAUSE
    assert copied(0, 0, 0, compared=0).kind is Kind.PAUSE
    assert copied(95, 0, 0).kind is Kind.HOLD


def test_nothing_seen_is_never_success() -> None:
    """Advance and promote need traffic, a warm canary, a held ratio, and no bad verdict."""
    verdicts = list(Verdict)
    for errors, latency, warm, holds, requests, last, quiet in itertools.product(
        verdicts, verdicts, (True, False), (True, False), (0, 1000), (True, False), (0.0, 90.0)
    ):
        seen = report(errors, latency, warm=warm, holds=holds, requests=requests)
        kind = decide(seen, POLICY, Standing(last, 100.0, quiet)).kind
        if kind in (Kind.ADVANCE, Kind.PROMOTE):
            bad = {Verdict.WORSE, Verdict.FAILED}
            assert warm
            assert holds
            assert requests
            assert not quiet
            assert not bad & {errors, latency}
        if kind is Kind.PROMOTE:
            assert errors in (Verdict.BETTER, Verdict.EQUIVALENT)


def test_promotion_without_proof_is_a_setting() -> None:
    """With ``no_worse`` an unproven metric does not hold the promotion up, a worse one does."""
    lax = msgspec.structs.replace(POLICY, promote_on="no_worse")
    promoted = decide(report(Verdict.NOT_ENOUGH), lax, LAST)
    assert promoted.kind is Kind.PROMOTE
    assert promoted.reason.startswith("no critical metric is worse, and of error_rate"), promoted
    assert decide(report(Verdict.EQUIVALENT), lax, LAST).reason.startswith("every critical metric")
    assert decide(report(Verdict.WORSE), lax, LAST).kind is Kind.ROLL_BACK
    unseen = report(Verdict.NOT_ENOUGH, Verdict.NOT_ENOUGH, counted=(0, 0))
    assert decide(unseen, lax, LAST).kind is Kind.PAUSE
    assert "nothing was counted of latency_p95" in decide(unseen, lax, LAST).reason


def test_a_metric_may_need_no_proof_of_its_own() -> None:
    """It still rolls back when it is worse, and the others still have to be shown."""
    errors, latency = POLICY.metrics
    lax = msgspec.structs.replace(errors, promote_on="no_worse")
    policy = msgspec.structs.replace(POLICY, metrics=(lax, latency))
    assert decide(report(Verdict.NOT_ENOUGH), policy, LAST).kind is Kind.PROMOTE
    assert decide(report(Verdict.WORSE), policy, LAST).kind is Kind.ROLL_BACK
    both = msgspec.structs.replace(latency, critical=True)
    strict = msgspec.structs.replace(POLICY, metrics=(lax, both), promote_on="equivalent")
    unproven = report(Verdict.NOT_ENOUGH, Verdict.NOT_ENOUGH)
    critical = msgspec.structs.replace(unproven.metrics[1], critical=True)
    seen = msgspec.structs.replace(unproven, metrics=(unproven.metrics[0], critical))
    assert decide(seen, strict, LAST).kind is Kind.HOLD


def test_a_reason_names_metric_and_size() -> None:
    """Who reads it knows what got worse, by how much, and what was tolerated."""
    reason = decide(report(Verdict.WORSE), POLICY, STANDING).reason
    assert reason == "error_rate is worse by 0.02, at least 0.01 where 0.001 is tolerated"
    late = decide(report(Verdict.NOT_ENOUGH), POLICY, Standing(True, 1000, 0)).reason
    assert "not enough data for error_rate" in late


@pytest.mark.parametrize(
    ("estimate", "low", "high", "said"),
    [
        (-0.3, -0.4, -0.2, "worse by 0.3, at least 0.2 where"),
        (None, None, -0.2, "worse by an unknown amount, at least 0.2 where"),
        (None, 0.2, None, "worse by an unknown amount, at least 0.2 where"),
        (0.0, 0.1, None, "worse by 0, at least 0.1 where"),
    ],
)
def test_a_fall_is_told_by_its_depth(
    estimate: float | None, low: float | None, high: float | None, said: str
) -> None:
    """Of what got worse by becoming less, the least is the upper end; and which class it was."""
    found = report(Verdict.WORSE)
    fallen = msgspec.structs.replace(
        found.metrics[0], estimate=estimate, low=low, high=high, reason="most moved: yes"
    )
    seen = msgspec.structs.replace(found, metrics=(fallen, found.metrics[1]))
    reason = decide(seen, POLICY, STANDING).reason
    assert said in reason
    assert reason.endswith("is tolerated (most moved: yes)")
