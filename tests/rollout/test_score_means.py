"""The mean of scores: how they are added up, and what Kayenta's test makes of slices of them."""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from scipy import stats

from salver.core.errors import InvalidSettings
from salver.rollout.columns import Columns, encode_columns
from salver.rollout.counted import Counted, counted, since
from salver.rollout.evidence import Block, Observed
from salver.rollout.kayenta import MIN_VALUES, Series, report
from salver.rollout.policy import MetricSpec, Policy
from salver.rollout.report import MetricReport, Verdict
from salver.rollout.series import Slices, check_kinds, cut
from salver.rollout.tally import (
    LARGEST_SCORE,
    LATENCY_BINS,
    SEGMENTS,
    Layout,
    Table,
    Tally,
    pack,
    unpack,
)

BOTH = MetricSpec("scores", "score", 0.0, direction="either", mean=True)
SHARES = msgspec.structs.replace(BOTH, mean=False)
LAYOUT = Layout(score_edges=(0.5,), feedback=("paid",), score_mean=True)
MEAN_ONLY = Layout(score_mean=True)
LEFT_OUT = "left out of the mean"
Scores = Sequence[Sequence[float]]
"""The scores of each slice."""


def sliced(
    layout: Layout, spec: MetricSpec, canary: Scores, primary: Scores, weight: int = 5_000
) -> dict[str, dict[str, Series]]:
    """Return the series of what both arms scored, slice by slice, as control makes them.

    Scores lie anywhere in the segments of their arm.
    """
    arms, rng, place = (Tally(layout), Tally(layout)), np.random.default_rng(5), weight // 5
    segments = range(place), range(place, SEGMENTS)
    slices = Slices()
    for number, new in enumerate((((), ()), *zip(canary, primary, strict=True))):
        for tally, scores, own in zip(arms, new, segments, strict=True):
            for score, segment in zip(
                scores, rng.integers(len(own), size=len(scores)), strict=True
            ):
                tally.averaged(own[segment], score)
                if layout.score_edges:
                    tally.scored(own[segment], score)
        tables = [unpack(pack(tally.table())) for tally in arms]
        block = Block(7, weight, layout, layout)
        slices = cut(slices, [Observed(block, *tables)], (spec,), float(number), 1.0)
    return {name: dict(parts) for name, parts in slices.series().items()}


def judged(
    layout: Layout, spec: MetricSpec, canary: Scores, primary: Scores, weight: int = 5_000
) -> MetricReport:
    """Return what Kayenta's test says of what both arms scored."""
    return report(spec, sliced(layout, spec, canary, primary, weight)[spec.name])


def drawn(seed: int, each: int, shift: float = 0.0) -> Scores:
    """Return fifty slices of scores around 1."""
    rng = np.random.default_rng(seed)
    found: list[list[float]] = rng.normal(1.0 + shift, 0.1, (MIN_VALUES, each)).tolist()
    return found


def test_what_would_spoil_a_sum_is_left_out_of_it() -> None:
    """It is counted as left out, and what is added afterwards still counts in full."""
    tally = Tally(LAYOUT)
    spoiling = (math.nan, math.inf, -math.inf, 1e308, 1e308, -2 * LARGEST_SCORE)
    for score in (*spoiling, 0.25, -0.5, 3.0):
        tally.averaged(4, score)
    row = unpack(pack(tally.table())).rows[4]
    assert row[LAYOUT.first_mean :].tolist() == [3, len(spoiling), 2.75]
    assert not row[: LAYOUT.first_mean].any()


def test_the_largest_score_that_counts_swallows_no_others() -> None:
    """A model may say anything once; means of the slices after it are right to four digits."""
    ones = [[0.3, 0.4]] * (MIN_VALUES - 1)
    series = sliced(MEAN_ONLY, BOTH, [[LARGEST_SCORE], *ones], [[0.3], *ones])["scores"]["mean"]
    assert series.experiment[0] == LARGEST_SCORE
    assert series.experiment[1:] == pytest.approx([0.35] * (MIN_VALUES - 1), rel=1e-3)


def test_means_are_those_of_the_scores() -> None:
    """Of each slice and arm numpy finds the same, however much the arms differ in traffic."""
    rng = np.random.default_rng(11)
    canary = [rng.normal(-1.0, 5.0, rng.integers(1, 9)).tolist() for _ in range(MIN_VALUES)]
    primary = [rng.normal(-1.0, 5.0, rng.integers(40, 90)).tolist() for _ in range(MIN_VALUES)]
    for layout in (LAYOUT, MEAN_ONLY):
        parts = sliced(layout, BOTH, canary, primary)["scores"]
        edges = [f"above {edge:g}" for edge in layout.score_edges]
        assert list(parts) == ["mean", LEFT_OUT, *edges]
        assert parts["mean"].experiment == pytest.approx([np.mean(scores) for scores in canary])
        assert parts["mean"].control == pytest.approx([np.mean(scores) for scores in primary])
        assert set(parts[LEFT_OUT].experiment + parts[LEFT_OUT].control) == {0.0}
    shares = sliced(LAYOUT, BOTH, canary, primary)["scores"]["above 0.5"]
    assert shares.experiment == pytest.approx([np.mean(np.array(s) > 0.5) for s in canary])


def test_a_slice_without_scores_has_no_mean() -> None:
    """Nothing is no mean of 0."""
    ones = [[1.0]] * (MIN_VALUES - 1)
    series = sliced(MEAN_ONLY, BOTH, [[math.nan], *ones], [[], *ones])["scores"]
    assert math.isnan(series["mean"].experiment[0])
    assert math.isnan(series["mean"].control[0])
    assert series[LEFT_OUT].experiment[:2] == (1.0, 0.0)
    assert math.isnan(series[LEFT_OUT].control[0])


@pytest.mark.parametrize("shift", [0.2, -0.2])
def test_a_mean_that_moves_between_the_edges_is_found(shift: float) -> None:
    """All scores stay above the only edge, so that shares alone do not see it; scipy does."""
    canary, primary = drawn(1, 8, shift), drawn(2, 8)
    found = judged(LAYOUT, BOTH, canary, primary)
    label = "high" if shift > 0 else "low"
    assert (found.verdict, found.reason) == (
        Verdict.WORSE, f"Kayenta's judge says {label}: mean",
    )  # fmt: skip
    assert found.estimate == pytest.approx(shift, abs=0.03)
    assert (found.n_canary, found.n_primary) == (MIN_VALUES, MIN_VALUES)
    means = [np.mean(arm, axis=1) for arm in (canary, primary)]
    assert stats.mannwhitneyu(*means).pvalue < 0.02
    assert found.low is not None
    assert found.high is not None
    for end, is_inside in ((found.low, False), (found.high, False), (shift, True)):
        outward = 1e-3 * np.sign(end - shift)
        told = stats.mannwhitneyu(means[0] - end - outward, means[1], method="asymptotic")
        assert (told.pvalue > 0.02) == is_inside
    alone = judged(LAYOUT, SHARES, canary, primary)
    assert alone.verdict is Verdict.EQUIVALENT
    assert "mean" not in alone.extra


def test_equal_means_are_equivalent() -> None:
    """Of the same scores nothing is said to have moved, with edges and without."""
    for layout in (LAYOUT, MEAN_ONLY):
        found = judged(layout, BOTH, drawn(3, 2), drawn(4, 38))
        assert found.verdict is Verdict.EQUIVALENT


def test_scores_that_are_no_numbers_are_harm_of_their_own() -> None:
    """Half of a canary's scores are gone and the mean of the others is as before."""
    canary = [[math.nan, *scores[1:]] for scores in drawn(5, 2)]
    found = judged(MEAN_ONLY, BOTH, canary, drawn(6, 2))
    assert found.verdict is Verdict.WORSE
    assert found.reason == f"Kayenta's judge says high: {LEFT_OUT}"


def test_a_mean_of_too_few_slices_is_not_enough_whatever_shares_say() -> None:
    """Shares that are the same do not stand for a mean that nobody knows."""
    rng = np.random.default_rng(9)

    def series(known: int) -> Series:
        values = rng.normal(1.0, 0.1, 2 * MIN_VALUES)
        values[known:] = math.nan
        return Series(tuple(values[:MIN_VALUES]), (0.9, *values[1:MIN_VALUES]))

    whole = Series(*(tuple(rng.normal(0.5, 0.1, MIN_VALUES)) for _ in "ab"))
    found = report(BOTH, {"mean": series(MIN_VALUES - 1), "above 0.5": whole})
    assert found.verdict is Verdict.NOT_ENOUGH
    assert found.reason == f"{MIN_VALUES - 1} of {MIN_VALUES} values seen"
    assert report(BOTH, {"mean": series(MIN_VALUES), "above 0.5": whole}).verdict is (
        Verdict.EQUIVALENT
    )
    moved = Series(whole.control, tuple(value + 1.0 for value in whole.control))
    found = report(BOTH, {"mean": series(MIN_VALUES - 1), "above 0.5": moved})
    assert (found.verdict, found.reason.rpartition(": ")[2]) == (Verdict.WORSE, "above 0.5")


def test_scores_without_any_number_are_not_enough() -> None:
    """Where neither arm has a mean nothing is known of it, though nothing has moved."""
    nothing = [[math.nan, math.nan]] * MIN_VALUES
    for layout in (LAYOUT, MEAN_ONLY):
        assert judged(layout, BOTH, nothing, nothing).verdict is Verdict.NOT_ENOUGH


def skewed(rng: np.random.Generator, each: int) -> Scores:
    """Return scores of which a few make the sum."""
    found: list[list[float]] = rng.lognormal(0.0, 2.0, (MIN_VALUES, each)).tolist()
    return found


def some_lost(rng: np.random.Generator, each: int) -> Scores:
    """Return scores of which one in two hundred is no number."""
    scores = rng.normal(1.0, 0.1, (MIN_VALUES, each))
    scores[rng.random(scores.shape) < 0.005] = math.nan
    found: list[list[float]] = scores.tolist()
    return found


@pytest.mark.parametrize("scores", [skewed, some_lost])
def test_equal_versions_are_no_shift_for_want_of_traffic(
    scores: Callable[[np.random.Generator, int], Scores],
) -> None:
    """Means of few skewed scores are mostly lower, and what is rare is in few of their slices.

    So a canary of 5 % is compared with as large a part of the primary's callers.
    """
    worse = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        found = judged(MEAN_ONLY, BOTH, scores(rng, 10), scores(rng, 190), 500)
        worse += found.verdict is Verdict.WORSE
    assert worse <= 1


@pytest.mark.parametrize("weight", [1, 500, 5_000, 9_500, 9_999])
def test_both_arms_are_added_up_over_equal_parts_of_the_ring(weight: int) -> None:
    """Of whichever arm has more callers as many count as the other has, and no segment of both."""
    layout = MEAN_ONLY
    rows = np.ones((SEGMENTS, layout.width))
    rows[:, layout.first_mean + 2] = np.arange(SEGMENTS)
    table = Table(rows, np.zeros(LATENCY_BINS))
    primary, canary = counted([Observed(Block(7, weight, layout, layout), table, table)])
    ends = max(1, min(weight, 10_000 - weight) // 5)
    sums = [arm.columns[layout.first_mean :] for arm in (canary, primary)]
    assert sums == [
        (ends, ends, np.arange(ends).sum()),
        (ends, ends, np.arange(SEGMENTS - ends, SEGMENTS).sum()),
    ]
    assert primary.columns[: layout.first_mean] == (SEGMENTS,) * layout.first_mean


def test_a_sum_may_fall_where_counts_may_not() -> None:
    """Negative scores lower it; a count that falls was lost with a gateway."""
    before, now = np.zeros(LAYOUT.width), np.zeros(LAYOUT.width)
    paid, mean = LAYOUT.first_feedback, LAYOUT.first_mean
    before[paid : paid + 3] = (5, 5, 5)
    before[mean : mean + 3] = (5, 5, 5)
    columns = since(LAYOUT, Counted((*now,), ()), Counted((*before,), ())).columns
    assert columns[paid : paid + 3] == (0, -5, 0)
    assert columns[mean : mean + 3] == (0, 0, -5)


def test_columns_of_an_older_salver_keep_their_bytes() -> None:
    """Encoded anew they are what a rollout that goes on has in its plan, so no epoch begins."""
    layout = {
        "latencies": ["p95"], "thresholds_s": [0.05], "labels": ["a"], "score_edges": [0.5],
        "feedback": [],
    }  # fmt: skip
    stored = msgspec.msgpack.encode({"canary": layout, "primary": layout})
    columns = msgspec.msgpack.decode(stored, type=Columns)
    assert encode_columns(columns) == stored
    assert columns.primary == Layout(("p95",), (0.05,), ("a",), (0.5,))
    wider = Columns(LAYOUT, LAYOUT)
    assert msgspec.msgpack.decode(encode_columns(wider), type=Columns) == wider


def test_means_need_no_edges_and_have_no_one_direction() -> None:
    """What is compared beside a mean moves both ways, so only either can be meant."""
    check_kinds([BOTH], ())
    check_kinds([BOTH, SHARES], (0.5,))
    with pytest.raises(InvalidSettings, match=r"'score_edges', .*or 'mean: true'"):
        check_kinds([BOTH, SHARES], ())
    with pytest.raises(InvalidSettings, match="'direction: either'"):
        check_kinds([msgspec.structs.replace(BOTH, direction="decrease")], ())


def test_a_mean_is_asked_for_where_it_can_be_compared() -> None:
    """Elsewhere the message says where, and what to write instead."""
    Policy(metrics=(BOTH,), method="kayenta").validate()
    with pytest.raises(InvalidSettings, match="only 'method: kayenta' compares") as refused:
        Policy(metrics=(BOTH,)).validate()
    assert "score_edges" in refused.value.message
    other = msgspec.structs.replace(BOTH, kind="error_rate")
    with pytest.raises(InvalidSettings, match=r"for kind 'score'.*feedback_mean"):
        Policy(metrics=(other,), method="kayenta").validate()


def test_answers_are_looked_at_for_their_means() -> None:
    """Gateways keep them for that alone, too."""
    assert Columns(MEAN_ONLY, MEAN_ONLY).captures
    assert not Columns(Layout(), Layout()).captures
