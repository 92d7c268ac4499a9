"""From counts to verdicts: each metric sees its own harm, and nothing is said too early."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from salver.core.errors import InvalidSettings
from salver.rollout import kayenta
from salver.rollout.analysis import analyse
from salver.rollout.evidence import Block, Observed
from salver.rollout.judge import Kind, Standing, decide
from salver.rollout.metrics.base import stability_index
from salver.rollout.metrics.plugins import load_plugins
from salver.rollout.metrics.table import METRICS, metric, register
from salver.rollout.policy import DEFAULT_METRICS, MAX_METRICS, Direction, MetricSpec, Policy
from salver.rollout.report import MetricReport, Report, Verdict
from salver.rollout.tally import SEGMENTS, Layout, Tally
from tests.rollout.tables import block, nothing, observed

REQUESTS = 12_000
HALF = block(1, 5000)
SPECS = {
    "errors": MetricSpec("errors", "error_rate", 0.01),
    "latency": MetricSpec("p95", "latency", 0.03, relative=True),
    "labels": MetricSpec("labels", "class_share", 0.02, direction="either"),
    "scores": MetricSpec("scores", "score", 0.02, direction="either"),
    "feedback": MetricSpec("bought", "feedback_mean", 0.1, label="bought", direction="either"),
}
HARMS = {"errors": 0.05, "latency": 0.8, "labels": 0.15, "scores": 0.1, "feedback": 0.6}
POLICY = Policy(metrics=tuple(SPECS.values()))


@pytest.fixture(scope="module", name="same")
def _same() -> Observed:
    return observed(np.random.default_rng(1), REQUESTS, where=HALF)


@pytest.fixture(scope="module", name="harmed")
def _harmed() -> dict[str, Observed]:
    return {
        kind: observed(np.random.default_rng(2), REQUESTS, {kind: size}, where=HALF)
        for kind, size in HARMS.items()
    }


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder in which modules are found; what was registered is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    register({})
    sys.modules.pop("a_plugin", None)


def by_name(report: Report) -> dict[str, MetricReport]:
    """Return a report's metrics by their names."""
    return {each.name: each for each in report.metrics}


@pytest.mark.parametrize("kind", SPECS)
def test_a_metric_sees_its_own_harm(kind: str, harmed: dict[str, Observed]) -> None:
    """What got worse is called worse, the interval lies beyond the margin, others do not."""
    found = by_name(analyse(POLICY, [harmed[kind]], 60.0))
    worse = [name for name, each in found.items() if each.verdict is Verdict.WORSE]
    assert worse == [SPECS[kind].name]
    seen = found[SPECS[kind].name]
    ends = [abs(end) for end in (seen.low, seen.high) if end is not None]
    if kind in ("errors", "latency"):
        assert seen.low is not None
        assert seen.low > seen.margin
        assert seen.estimate == pytest.approx(HARMS[kind], rel=0.5)
    assert max(ends) > seen.margin


def test_equal_versions_are_not_worse(same: Observed) -> None:
    """No verdict is worse, every interval holds 0, and shares are those that were drawn."""
    report = analyse(POLICY, [same], 60.0)
    for each in report.metrics:
        assert each.verdict in (Verdict.EQUIVALENT, Verdict.NOT_ENOUGH), each
        assert each.low is not None
        assert each.high is not None
        assert each.low <= 0.0 <= each.high
    assert by_name(report)["errors"].primary == pytest.approx(0.01, abs=0.004)
    assert report.sample_ratio.holds
    assert report.requests == report.step_requests


@pytest.mark.parametrize(
    ("direction", "harm", "verdict"),
    [
        ("increase", 0.6, Verdict.WORSE),
        ("decrease", -0.6, Verdict.WORSE),
        ("increase", -0.6, Verdict.BETTER),
        ("decrease", 0.6, Verdict.BETTER),
    ],
)
def test_the_direction_says_what_harm_is(
    direction: Direction, harm: float, verdict: Verdict
) -> None:
    """More feedback is worse or better, as its owner wrote."""
    spec = MetricSpec("f", "feedback_mean", 0.1, label="bought", direction=direction)
    seen = observed(np.random.default_rng(5), 6_000, {"feedback": harm}, where=HALF)
    report = analyse(Policy(metrics=(spec,)), [seen], 60.0)
    assert report.metrics[0].verdict is verdict


def test_enough_requests_show_equivalence() -> None:
    """With a wide margin equal versions are called equivalent, with few requests not yet."""
    spec = MetricSpec("errors", "error_rate", 0.02)
    policy = Policy(metrics=(spec,), warmup_requests=0)
    many = observed(np.random.default_rng(6), 6_000, where=HALF)
    few = observed(np.random.default_rng(6), 100, where=HALF)
    assert analyse(policy, [many], 60.0).metrics[0].verdict is Verdict.EQUIVALENT
    assert analyse(policy, [few], 60.0).metrics[0].verdict is Verdict.NOT_ENOUGH


def test_nothing_is_said_before_the_warm_up_is_over(harmed: dict[str, Observed]) -> None:
    """Neither time nor requests alone make a canary warm, and warm-up counts are not compared."""
    bad = harmed["errors"]
    warming = msgspec.structs.replace(bad, block=block(0, 5000, warmup=True))
    assert not analyse(POLICY, [bad], POLICY.warmup_s - 1).warm
    assert analyse(POLICY, [bad], POLICY.warmup_s - 1).metrics == ()
    patient = msgspec.structs.replace(POLICY, warmup_requests=10**6)
    assert not analyse(patient, [bad], 60.0).warm
    report = analyse(POLICY, [warming], 60.0)
    assert report.warm
    assert report.requests == 0
    assert {each.verdict for each in report.metrics} <= {Verdict.NOT_ENOUGH, Verdict.FAILED}


def test_a_wrong_sample_ratio_blocks_every_verdict(harmed: dict[str, Observed]) -> None:
    """When a third of the canary's callers are missing nothing is compared."""
    bad = harmed["errors"]
    rows = bad.canary.rows.copy()
    rows[:333] = 0.0
    lossy = msgspec.structs.replace(bad, canary=bad.canary._replace(rows=rows))
    report = analyse(POLICY, [lossy], 60.0)
    assert not report.sample_ratio.holds
    assert report.sample_ratio.observed < report.sample_ratio.expected
    assert report.metrics == ()


class Share(NamedTuple):
    """What becomes of an arm's requests; each a part of all of them, the first of the others."""

    failed: float = 0.01
    refused: float = 0.0
    remembered: float = 0.0


def counted(canary: Share, primary: Share, *, requests: int, weight: int = 5000) -> Observed:
    """Return requests without keys; each arm refuses, remembers and fails its own share."""
    rng, where = np.random.default_rng(3), block(1, weight)
    tallies = Tally(where.canary), Tally(where.primary)
    for segment in rng.integers(0, SEGMENTS, requests).tolist():
        mine = segment < weight // 5
        tally, share = (tallies[0], canary) if mine else (tallies[1], primary)
        draw = rng.random()
        if draw < share.refused:
            tally.refused(segment, keyed=False)
        elif draw < share.refused + share.remembered:
            tally.remembered(segment, keyed=False)
        elif rng.random() < share.failed:
            tally.failed(segment, keyed=False)
        else:
            tally.answered(segment, 0.02 * float(rng.lognormal(0.0, 0.6)), keyed=False)
    return Observed(where, tallies[0].table(), tallies[1].table())


def test_a_canary_that_refuses_what_the_primary_takes_is_worse() -> None:
    """Whether its step, its range or its size says so, its callers see it; garbage is no harm."""
    policy = Policy(warmup_s=0.0)
    bad = counted(Share(refused=0.07), Share(refused=0.05), requests=40_000)
    found = by_name(analyse(policy, [bad], 60.0))
    assert found["refusal_rate"].verdict is Verdict.WORSE
    assert found["refusal_rate"].estimate == pytest.approx(0.02, abs=0.01)
    assert found["error_rate"].verdict is not Verdict.WORSE
    garbage = Share(refused=0.3)
    same = by_name(analyse(policy, [counted(garbage, garbage, requests=40_000)], 60.0))
    assert same["refusal_rate"].verdict is Verdict.NOT_ENOUGH
    assert same["error_rate"].n_canary < 22_000


def test_arms_may_remember_unlike_parts_of_their_requests() -> None:
    """The ratio is that of all requests; the rest is compared by the share that ran."""
    policy = Policy(metrics=(SPECS["errors"], SPECS["latency"]), warmup_s=0.0)
    cold, warm = Share(remembered=0.3), Share(remembered=0.6)
    seen = counted(cold, warm, requests=20_000, weight=1_000)
    report = analyse(policy, [seen], 60.0)
    assert report.sample_ratio.holds
    assert report.sample_ratio.observed == pytest.approx(0.1, abs=0.01)
    assert report.requests == pytest.approx(1_400, rel=0.1)
    for each in report.metrics:
        assert each.verdict in (Verdict.EQUIVALENT, Verdict.NOT_ENOUGH), each
    failing = counted(Share(0.1, 0.0, 0.3), warm, requests=20_000, weight=1_000)
    assert by_name(analyse(policy, [failing], 60.0))["errors"].verdict is Verdict.WORSE


def test_a_class_of_the_name_of_all_others_is_compared_by_itself() -> None:
    """What users call "(other)" moves, and what is none of the counted classes stays."""
    layout = Layout((), (), ("(other)", "yes"))
    where, rng = Block(1, 5_000, layout, layout, warmup=False), np.random.default_rng(4)
    tallies = Tally(layout), Tally(layout)
    for tally, labels in zip(tallies, ((0, 0, 1, 7), (0, 1, 1, 7)), strict=True):
        for segment, place in rng.integers(0, (SEGMENTS, len(labels)), (10_000, 2)).tolist():
            tally.answered(segment, 0.02, keyed=False)
            tally.predicted(segment, labels[place])
    policy = Policy(metrics=(SPECS["labels"],), warmup_s=0.0)
    seen = Observed(where, tallies[0].table(), tallies[1].table())
    found = by_name(analyse(policy, [seen], 60.0))["labels"]
    assert found.extra["(other)"] == pytest.approx(0.25, abs=0.05)
    assert found.extra["yes"] == pytest.approx(-0.25, abs=0.05)
    assert found.extra["((other))"] == pytest.approx(0.0, abs=0.05)
    assert found.extra["psi"] > 0.1


def test_an_empty_rollout_says_so() -> None:
    """Without a request every metric has not enough data and says of which arm."""
    report = analyse(msgspec.structs.replace(POLICY, warmup_requests=0), [nothing(HALF)], 60.0)
    assert report.requests == 0
    for each in report.metrics:
        assert each.verdict is Verdict.NOT_ENOUGH
        assert "canary and the primary" in each.reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("return None", "TypeError: it returned a NoneType in the place of a MetricReport"),
        ("return report('y', 'better')", "ValueError: its report must have the name"),
        ("return report('x', 'fine')", "ValidationError: Invalid enum value 'fine'"),
        ("return report('x', 'better', '0.1')", "ValidationError: Expected `float"),
    ],
)
def test_a_metric_that_raises_has_failed(
    same: Observed, plugins: Path, body: str, reason: str
) -> None:
    """A plug-in may do anything: the others are still there, and the reason names the error."""
    (plugins / "a_plugin.py").write_text(
        "from salver.rollout.report import MetricReport\n"
        "def report(name, verdict, estimate=None):\n"
        "    return MetricReport(name, verdict, True, 0.1, False, 0.05, estimate)\n"
        f"def broken(question):\n    {body}\n"
    )
    register(load_plugins("broken=a_plugin:broken"))
    policy = Policy(metrics=(MetricSpec("x", "broken", 0.1), SPECS["errors"]))
    broken, errors = analyse(policy, [same], 60.0).metrics
    assert broken.verdict is Verdict.FAILED
    assert broken.reason.startswith(reason)
    assert errors.verdict is not Verdict.FAILED


def test_a_verdict_in_plain_text_is_a_verdict(same: Observed, plugins: Path) -> None:
    """A plug-in that says *worse* in its own words, and numbers of NumPy, rolls back."""
    (plugins / "a_plugin.py").write_text(
        "import numpy as np\n"
        "from salver.rollout.report import MetricReport\n"
        "def text(question):\n"
        "    estimate = np.float32(0.5)\n"
        "    return MetricReport('x', 'worse', np.bool_(True), 0.1, False, 0.05, estimate)\n"
    )
    register(load_plugins("text=a_plugin:text"))
    policy = Policy(metrics=(MetricSpec("x", "text", 0.1),))
    report = analyse(policy, [same], 60.0)
    assert report.metrics[0].verdict is Verdict.WORSE
    assert type(report.metrics[0].estimate) is float
    assert decide(report, policy, Standing(True, 60.0, 0.0)).kind is Kind.ROLL_BACK


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (MetricSpec("x", "eror_rate", 0.1), "did you mean 'error_rate'"),
        (MetricSpec("x", "latency", 0.1), "relative increase"),
        (MetricSpec("x", "latency", 0.1, relative=True), "do not count latencies"),
        (MetricSpec("x", "class_share", 0.1), "either direction"),
        (MetricSpec("x", "class_share", 0.1, label="z"), "do not count the class"),
        (MetricSpec("x", "feedback_rate", 0.1, label="z"), "do not count feedback"),
    ],
)
def test_a_metric_that_cannot_be_computed_says_why(
    spec: MetricSpec, reason: str, same: Observed
) -> None:
    """It has failed, which pauses, and a person reads the cause."""
    found = analyse(Policy(metrics=(spec,)), [same], 60.0).metrics[0]
    assert found.verdict is Verdict.FAILED
    assert reason in found.reason


def test_a_report_survives_json(harmed: dict[str, Observed]) -> None:
    """What is stored as an event and shown by the API is what was found."""
    report = analyse(POLICY, list(harmed.values())[:1], 60.0)
    again = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    assert again == report


def test_the_same_counts_give_the_same_report(same: Observed) -> None:
    """Nothing is remembered between looks, so a killed analysis loses nothing."""
    assert analyse(POLICY, [same], 60.0) == analyse(POLICY, [same], 60.0)


def test_blocks_of_other_weights_are_not_confused() -> None:
    """Errors that come with the time of day and the weight together are not the canary's."""
    rng = np.random.default_rng(8)
    calm = observed(rng, 10_000, where=block(1, 500))
    rough = observed(rng, 10_000, where=block(2, 5000))
    for table in (rough.canary, rough.primary):
        table.rows[:, 1] = np.minimum(table.rows[:, 1] + table.rows[:, 0] // 4, table.rows[:, 0])
    policy = Policy(metrics=(SPECS["errors"],))
    found = analyse(policy, [calm, rough], 60.0).metrics[0]
    assert found.verdict is not Verdict.WORSE
    assert found.canary is not None
    assert found.primary is not None
    assert found.canary > 2 * found.primary


def test_kayenta_is_a_method_of_its_own(same: Observed) -> None:
    """It judges series; a metric without one has not enough data."""
    policy = Policy(metrics=(SPECS["errors"], SPECS["latency"]), method="kayenta")
    rng = np.random.default_rng(3)
    series = {
        "errors": {"": kayenta.Series(tuple(rng.normal(1, 0.1, 60)), tuple(rng.normal(2, 0.1, 60)))}
    }
    errors, latency = analyse(policy, [same], 60.0, series).metrics
    assert errors.verdict is Verdict.WORSE
    assert latency.verdict is Verdict.NOT_ENOUGH


def test_the_stability_index_is_zero_for_equal_shapes() -> None:
    """And grows with the difference; a common reading calls more than 0.25 a great change."""
    even = np.array([100.0, 100.0, 100.0])
    assert stability_index(even, even * 19) == pytest.approx(0.0, abs=1e-4)
    assert 0.25 < stability_index(np.array([250.0, 40.0, 10.0]), even) < math.inf


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Policy(alpha=0.0), "alpha"),
        (Policy(alpha=0.6), "alpha"),
        (Policy(metrics=()), "1 to"),
        (Policy(metrics=DEFAULT_METRICS * (MAX_METRICS // 5 + 1)), "1 to"),
        (Policy(metrics=DEFAULT_METRICS[:1] * 2), "two metrics"),
        (Policy(min_requests=-1), "negative"),
        (Policy(metrics=(MetricSpec("x", "error_rate", -0.1),)), "max_increase"),
        (Policy(metrics=(MetricSpec("x", "error_rate", math.nan),)), "max_increase"),
        (Policy(metrics=(MetricSpec("x", "error_rate", 0.1, share=0.0),)), "share"),
        (Policy(metrics=(MetricSpec("x", "latency", 0.1, quantile=1.0),)), "quantile"),
        (
            Policy(
                metrics=(MetricSpec("x", "error_rate", 1.0, relative=True, direction="either"),)
            ),
            "decrease",
        ),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(policy: Policy, reason: str) -> None:
    """The message names the setting."""
    with pytest.raises(InvalidSettings, match=reason):
        policy.validate()


def test_alpha_is_divided_by_share() -> None:
    """All metrics together have what the rollout has."""
    policy = Policy()
    policy.validate()
    assert sum(map(policy.alpha_of, policy.metrics)) == pytest.approx(policy.alpha)


def test_every_kind_of_metric_is_there() -> None:
    """Each line of the table leads to a function."""
    for kind in METRICS:
        assert callable(metric(kind))
    with pytest.raises(InvalidSettings, match="known are"):
        metric("zzz")


def test_a_higher_threshold_is_a_higher_margin() -> None:
    """Equal versions whose latencies are below what anybody cares about are equal, not better."""
    columns = Layout(("p95",), (0.001,))
    slower = Layout(("p95",), (0.002,))
    rng = np.random.default_rng(4)
    arms = []
    for layout, mine in ((slower, True), (columns, False)):
        tally = Tally(layout)
        for seconds in rng.lognormal(np.log(0.0006), 0.3, 20_000).tolist():
            place = int(rng.integers(0, 1_000))
            tally.answered(place if mine else 1_000 + place, seconds, keyed=False)
        arms.append(tally.table())
    given = Observed(Block(1, 5_000, slower, columns), *arms)
    found = analyse(Policy(metrics=(SPECS["latency"],), warmup_s=0.0), [given], 60.0).metrics[0]
    assert found.margin == pytest.approx(1.0)
    assert found.verdict is Verdict.EQUIVALENT
    assert found.estimate == pytest.approx(0.0, abs=0.15)
