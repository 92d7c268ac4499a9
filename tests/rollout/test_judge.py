"""The decision table: one test for each line, and that nothing seen never counts as success."""

import itertools

import msgspec
import pytest

from salver.rollout.judge import Kind, Standing, decide
from salver.rollout.policy import MetricSpec, Policy
from salver.rollout.report import MetricReport, Report, SampleRatio, Verdict

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
) -> Report:
    """Return a report with these verdicts."""
    metrics = tuple(
        MetricReport(
            spec.name, said, spec.critical, spec.max_increase, spec.relative, 0.01, 0.02, 0.01, 0.03
        )
        for spec, said in zip(POLICY.metrics, (errors, latency), strict=True)
    )
    ratio = SampleRatio(holds=holds, expected=0.05, observed=0.04)
    return Report(warm, requests, requests, ratio, metrics if warm and holds else ())


NO_METRICS = msgspec.structs.replace(report(), metrics=())

LINES = [
    ("a crash loop rolls back", None, Standing(False, 1, 0, failure="3 crashes"), Kind.ROLL_BACK),
    ("no analysis pauses", None, LAST, Kind.PAUSE),
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
    ("a person is asked", report(), Standing(True, 100, 0, auto=False), Kind.PAUSE),
    ("proven promotes", report(Verdict.BETTER, Verdict.NOT_ENOUGH), LAST, Kind.PROMOTE),
]


@pytest.mark.parametrize(("name", "seen", "standing", "kind"), LINES, ids=[x[0] for x in LINES])
def test_a_line_of_the_table(
    name: str, seen: Report | None, standing: Standing, kind: Kind
) -> None:
    """What is seen leads to what the table says, with a reason for a person."""
    decision = decide(seen, POLICY, standing)
    assert decision.kind is kind, name
    assert decision.reason


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
    assert decide(report(Verdict.NOT_ENOUGH), lax, LAST).kind is Kind.PROMOTE
    assert decide(report(Verdict.WORSE), lax, LAST).kind is Kind.ROLL_BACK


def test_a_reason_names_metric_and_size() -> None:
    """Who reads it knows what got worse, by how much, and what was tolerated."""
    reason = decide(report(Verdict.WORSE), POLICY, STANDING).reason
    assert reason == "error_rate is worse by 0.02, at least 0.01 where 0.001 is tolerated"
    late = decide(report(Verdict.NOT_ENOUGH), POLICY, Standing(True, 1000, 0)).reason
    assert "not enough data for error_rate" in late
