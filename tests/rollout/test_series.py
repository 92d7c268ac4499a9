"""Time slices: what was counted between two looks, of both arms, and looked at in whole lots."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import pytest

from salver.core.errors import InvalidSettings
from salver.rollout.evidence import Block, Observed
from salver.rollout.kayenta import MIN_VALUES, report
from salver.rollout.policy import MetricSpec
from salver.rollout.series import MAX_SLICES, MAX_VALUES, Pair, Slices, check_kinds, cut
from salver.rollout.tally import LATENCY_BINS, Floats, Layout, Table, Tally

LAYOUT = Layout(("p50",), (0.01,), ("no", "yes"), (), ("paid",))
SPECS = (
    MetricSpec("errors", "error_rate", 0.0),
    MetricSpec("p50", "latency", 0.0, relative=True, quantile=0.5),
    MetricSpec("yes", "class_share", 0.0, label="yes"),
    MetricSpec("paid", "feedback_rate", 0.0),
    MetricSpec("refused", "refusal_rate", 0.0),
)


class Arm:
    """What a gateway has counted of one arm."""

    def __init__(self) -> None:
        self.tally = Tally(LAYOUT)

    def more(self, answered: int, failed: int, seconds: float, yes: int, paid: int) -> None:
        """Count more."""
        for number in range(answered):
            self.tally.answered(number, seconds)
            self.tally.predicted(number, int(number < yes))
            self.tally.rated(number, 0, float(number < paid))
        for number in range(failed):
            self.tally.failed(number)


def seen(canary: Arm, primary: Arm, *, warmup: bool = False) -> list[Observed]:
    """Return it as control sees it."""
    block = Block(7, 5_000, LAYOUT, LAYOUT, warmup=warmup)
    return [Observed(block, canary.tally.table(), primary.tally.table())]


@pytest.mark.parametrize("value", [1e6, -1e6, 2.0])
def test_a_slice_with_an_absurd_value_says_nothing_of_shares(value: float) -> None:
    """The slices after it do, and so do the other metrics."""
    canary, primary = Arm(), Arm()
    slices = cut(Slices(), seen(canary, primary), SPECS, 5.0, 10.0)
    for now_s in (15.0, 25.0):
        canary.more(8, 0, 0.02, 3, 4)
        if now_s == 15.0:
            canary.tally.rated(0, 0, value)
        slices = cut(slices, seen(canary, primary), SPECS, now_s, 10.0)
    assert slices.values["paid"][1] == (None, 0.5)
    assert slices.values["yes"][1] == (3 / 8, 3 / 8)


def test_refused_and_remembered_requests_are_told_apart() -> None:
    """Failures are of what ran, refusals of all."""
    canary, primary = Arm(), Arm()
    slices = cut(Slices(), seen(canary, primary), SPECS, 5.0, 10.0)
    canary.more(6, 2, 0.02, 3, 4)
    for place in range(4):
        canary.tally.remembered(place)
        canary.tally.refused(place)
    slices = cut(slices, seen(canary, primary), SPECS, 15.0, 10.0)
    assert slices.values["errors"][1] == (2 / 12,)
    assert slices.values["refused"][1] == (4 / 16,)


def test_a_slice_is_what_came_since_the_last() -> None:
    """Of both arms over the same time; one without anything has no value."""
    canary, primary = Arm(), Arm()
    canary.more(100, 100, 1.0, 0, 0)
    assert cut(Slices(), seen(canary, primary, warmup=True), SPECS, 1.0, 10.0) == Slices()
    slices = cut(Slices(), seen(canary, primary), SPECS, 5.0, 10.0)
    assert not slices.values
    canary.more(6, 2, 0.02, 3, 4)
    primary.more(6, 0, 0.005, 0, 3)
    assert cut(slices, seen(canary, primary), SPECS, 14.9, 10.0) is slices
    slices = cut(slices, seen(canary, primary), SPECS, 15.0, 10.0)
    canary.more(2, 0, 0.02, 0, 0)
    slices = cut(slices, seen(canary, primary), SPECS, 26.0, 10.0)
    assert slices.values["errors"] == ((0.0, None), (0.25, 0.0))
    assert slices.values["refused"] == ((0.0, None), (0.0, 0.0))
    assert slices.values["yes"] == ((0.0, None), (0.5, 0.0))
    assert slices.values["paid"] == ((0.5, None), (4 / 6, 0.0))
    (first, none), (slow, again) = slices.values["p50"]
    assert none is None
    assert first == pytest.approx(0.005, rel=0.06)
    assert slow == pytest.approx(0.02, rel=0.06)
    assert again == pytest.approx(0.02, rel=0.06)
    assert msgspec.json.decode(msgspec.json.encode(slices), type=Slices) == slices


def test_what_is_left_out_makes_no_slice() -> None:
    """What was counted before and after is of other requests, whose difference means nothing."""
    canary, primary = Arm(), Arm()
    slices = cut(Slices(), seen(canary, primary), SPECS, 5.0, 10.0)
    canary.more(340, 10, 0.02, 0, 0)
    primary.more(350, 0, 0.02, 0, 0)
    slices = cut(slices, seen(canary, primary), SPECS, 15.0, 10.0)
    before = slices.values
    slices = cut(slices, [], SPECS, 25.0, 10.0, 1)
    assert (slices.values, slices.primary, slices.gaps) == (before, None, 1)
    canary, primary = Arm(), Arm()
    canary.more(350, 10, 0.02, 0, 0)
    slices = cut(slices, seen(canary, primary), SPECS, 35.0, 10.0, 1)
    assert slices.values == before
    canary.more(9, 1, 0.02, 0, 0)
    primary.more(10, 0, 0.02, 0, 0)
    slices = cut(slices, seen(canary, primary), SPECS, 45.0, 10.0, 1)
    assert slices.values["errors"] == ((0.0, 0.0), (10 / 350, 0.1))


def test_slices_are_looked_at_in_whole_lots() -> None:
    """A test for one look is not made after every slice."""
    canary, primary = Arm(), Arm()
    slices = cut(Slices(), seen(canary, primary), SPECS, 0.0, 1.0)
    lengths = []
    for number in range(2 * MIN_VALUES + 1):
        if number % 2:
            canary.more(1, 0, 0.01, 0, 0)
        primary.more(1, 0, 0.01, 0, 0)
        slices = cut(slices, seen(canary, primary), SPECS, number + 1.0, 1.0)
        series = slices.series()["errors"][""]
        lengths.append(len(series.control))
    assert set(lengths) == {0, MIN_VALUES, 2 * MIN_VALUES}
    assert lengths.index(MIN_VALUES) == MIN_VALUES - 1
    assert sum(math.isnan(value) for value in series.experiment) == MIN_VALUES


def test_slices_are_bounded() -> None:
    """A rollout that goes on for ever does not fill memory."""
    values = {"errors": ((0.0,) * MAX_SLICES, (0.0,) * MAX_SLICES)}
    full = msgspec.structs.replace(
        cut(Slices(), seen(Arm(), Arm()), SPECS, 0.0, 1.0), values=values
    )
    assert cut(full, seen(Arm(), Arm()), SPECS[:1], 9.0, 1.0).values == values


WHOLE = MetricSpec("classes", "class_share", 0.01, direction="either")
SCORES = MetricSpec("scores", "score", 0.01, direction="either")
SCORED = Layout((), (), ("no", "yes"), (0.2, 0.8))


def test_classes_and_scores_are_one_series_for_each_part() -> None:
    """A class's share of what was predicted, other ones too, and the share above each edge."""
    canary, primary = Tally(SCORED), Tally(SCORED)

    def slices_after(before: Slices, now_s: float, gaps: int = 0) -> Slices:
        block = Block(7, 5_000, SCORED, SCORED, warmup=False)
        seen = [Observed(block, canary.table(), primary.table())]
        return cut(before, seen, (WHOLE, SCORES, SPECS[2]), now_s, 10.0, gaps)

    slices = slices_after(Slices(), 0.0)
    for number, (label, score) in enumerate(((0, 0.1), (1, 0.5), (1, 0.9), (7, 0.9))):
        canary.predicted(number, label)
        canary.scored(number, score)
    slices = slices_after(slices_after(slices, 10.0), 20.0)
    assert slices.parts["classes"] == {
        "no": ((None, None), (0.25, None)),
        "yes": ((None, None), (0.5, None)),
        "(other)": ((None, None), (0.25, None)),
    }
    assert slices.parts["scores"] == {
        "above 0.2": ((None, None), (0.75, None)),
        "above 0.8": ((None, None), (0.5, None)),
    }
    assert slices.values == {"yes": ((None, None), (0.5, None))}
    assert msgspec.json.decode(msgspec.json.encode(slices), type=Slices) == slices
    after_gap = slices_after(slices, 30.0, 1)
    assert (after_gap.parts, after_gap.primary is None) == (slices.parts, False)
    primary.predicted(0, 0)
    primary.scored(0, 0.9)
    for number in range(MIN_VALUES - 2):
        slices = slices_after(slices, 30.0 + 10.0 * number)
    series = slices.series()
    assert {name: len(parts) for name, parts in series.items()} == {
        "classes": 3, "scores": 2, "yes": 1,
    }  # fmt: skip
    assert series["classes"]["no"].control[2] == series["scores"]["above 0.8"].control[2] == 1.0


def test_a_class_of_the_name_of_all_others_has_its_own_series() -> None:
    """What users call "(other)" is one of the counted classes, and not what none of them is."""
    layout = Layout((), (), ("(other)", "yes"))
    canary, primary = Tally(layout), Tally(layout)
    slices = Slices()
    for now_s in (0.0, 10.0):
        block = Block(7, 5_000, layout, layout, warmup=False)
        seen = [Observed(block, canary.table(), primary.table())]
        slices = cut(slices, seen, (WHOLE,), now_s, 10.0)
        for number, label in enumerate((0, 0, 0, 7)):
            canary.predicted(number, label)
    assert slices.parts["classes"] == {
        "(other)": ((None,), (0.75,)),
        "yes": ((None,), (0.0,)),
        "((other))": ((None,), (0.25,)),
    }


def test_classes_that_nobody_counts_are_an_error() -> None:
    """The rollout pauses and says so, instead of waiting for values that never come."""
    slices = cut(Slices(), _unlabelled(), (WHOLE,), 0.0, 1.0)
    with pytest.raises(InvalidSettings, match="count no classes"):
        cut(slices, _unlabelled(), (WHOLE,), 2.0, 1.0)


def _unlabelled() -> list[Observed]:
    tally = Tally(Layout())
    return [
        Observed(Block(7, 5_000, Layout(), Layout(), warmup=False), tally.table(), tally.table())
    ]


def test_the_more_parts_the_fewer_slices_are_kept() -> None:
    """All values together are bounded, and still enough for one look."""
    seen_of = seen(Arm(), Arm())
    for parts, room in ((100, MAX_VALUES // 100), (5_000, MIN_VALUES)):
        for length in (room - 1, room):
            pair: Pair = ((0.5,) * length, (0.5,) * length)
            kept = {"classes": dict.fromkeys(("no", "yes", "(other)"), pair)}
            many = {"x": {str(part): pair for part in range(parts - 3)}}
            before = cut(Slices(parts=kept | many), seen_of, (WHOLE,), 0.0, 1.0)
            after = cut(before, seen_of, (WHOLE,), 9.0, 1.0)
            assert (after.parts == before.parts) == (length == room)


def test_what_has_no_numbers_is_refused() -> None:
    """With its name and kind, and what may be asked instead."""
    with pytest.raises(InvalidSettings, match="no numbers per time slice") as refused:
        check_kinds([*SPECS, MetricSpec("x", "own", 1)], ())
    told = refused.value.message
    assert "metric 'x' of kind 'own'" in told
    assert "leave it out" in told
    assert "'method: sequential'" in told
    check_kinds([*SPECS, WHOLE, SCORES], (0.5,))


@pytest.mark.parametrize(
    "spec",
    [
        MetricSpec("c", "class_share", 0.1),
        MetricSpec("s", "score", 0.1, direction="decrease"),
        MetricSpec("c", "class_share", 0.1, direction="either", relative=True),
    ],
)
def test_several_shares_have_no_one_direction(spec: MetricSpec) -> None:
    """Where one rises another falls, so that only a move either way can be meant."""
    with pytest.raises(InvalidSettings, match="'direction: either'"):
        check_kinds([spec], (0.5,))


def test_scores_need_edges() -> None:
    """Without them gateways count none."""
    with pytest.raises(InvalidSettings, match="'score_edges'"):
        check_kinds([SCORES], ())


def test_counts_that_fall_do_no_harm() -> None:
    """A gateway whose last report was lost may have told less before it died."""
    canary, primary = Arm(), Arm()
    canary.more(10, 0, 0.01, 0, 0)
    slices = cut(Slices(), seen(canary, primary), SPECS, 0.0, 1.0)
    slices = cut(slices, seen(Arm(), Arm()), SPECS, 2.0, 1.0)
    assert slices.values["errors"] == ((None,), (None,))
    assert not np.any(slices.series()["errors"][""].control)


def drawn(rng: np.random.Generator, layout: Layout, shares: Sequence[float], count: int) -> Floats:
    """Return the predictions of one slice as columns."""
    columns = np.zeros(layout.width)
    columns[layout.first_label : layout.first_score] = rng.multinomial(count, shares)
    return columns


def rolled_out(seed: int, canary_shares: Sequence[float], primary_shares: Sequence[float]) -> str:
    """Return the verdict on a canary that got 5 % of the requests in fifty slices."""
    layout = Layout((), (), tuple(f"k{place}" for place in range(7)), ())
    spec = MetricSpec("classes", "class_share", 0.01, direction="either")
    rng, slices, bins = np.random.default_rng(seed), Slices(), np.zeros(LATENCY_BINS)
    rows = [np.zeros(layout.width), np.zeros(layout.width)]
    for place in range(MIN_VALUES + 1):
        rows[0] += drawn(rng, layout, canary_shares, 500)
        rows[1] += drawn(rng, layout, primary_shares, 9500)
        canary, primary = (Table(row[np.newaxis].copy(), bins) for row in rows)
        block = Block(7, 500, layout, layout, warmup=False)
        slices = cut(slices, [Observed(block, canary, primary)], (spec,), float(place), 1.0)
    return report(spec, slices.series()["classes"]).verdict.value


def test_rare_classes_are_no_shift_for_want_of_traffic() -> None:
    """Versions that are the same are not told apart by how much they are asked."""
    shares = (0.6, 0.3, 0.0975, *[0.0005] * 5)
    worse = sum(rolled_out(seed, shares, shares) == "worse" for seed in range(12))
    assert worse <= 1


def test_a_common_class_that_moves_is_seen_with_little_traffic() -> None:
    """Five points of a share, at five percent of the requests."""
    shares = (0.6, 0.3, 0.0975, *[0.0005] * 5)
    moved = (0.55, 0.35, 0.0975, *[0.0005] * 5)
    assert all(rolled_out(seed, moved, shares) == "worse" for seed in range(3))


@pytest.mark.parametrize(
    ("canary_mean", "primary_mean", "direction"),
    [(-100.0, -1.0, "decrease"), (5.0, -1.0, "increase")],
)
def test_a_mean_below_zero_hides_no_harm(
    canary_mean: float, primary_mean: float, direction: Literal["increase", "decrease"]
) -> None:
    """Losses have negative values, which are compared like any others."""
    layout = Layout((), (), (), (), ("profit",))
    spec = MetricSpec("profit", "feedback_mean", 0.1, direction=direction)
    canary, primary, slices = Tally(layout), Tally(layout), Slices()
    rng = np.random.default_rng(1)
    for place in range(MIN_VALUES + 1):
        for tally, mean in ((canary, canary_mean), (primary, primary_mean)):
            for number in range(3):
                tally.rated(number, 0, float(rng.normal(mean, 0.1)))
        block = Block(7, 5_000, layout, layout, warmup=False)
        observed = [Observed(block, canary.table(), primary.table())]
        slices = cut(slices, observed, (spec,), float(place), 1.0)
    assert report(spec, slices.series()["profit"]).verdict.value == "worse"


def test_edges_that_are_close_are_two_parts() -> None:
    """Each has a series of its own, however alike they look."""
    layout = Layout((), (), (), (1_000_001.0, 1_000_002.0))
    spec = MetricSpec("scores", "score", 0.1, direction="either")
    rows = np.zeros((1, layout.width))
    slices = Slices()
    for place in range(2):
        rows[0, layout.first_score : layout.first_feedback] += 5
        table = Table(rows.copy(), np.zeros(LATENCY_BINS))
        observed = [Observed(Block(7, 500, layout, layout, warmup=False), table, table)]
        slices = cut(slices, observed, (spec,), float(place), 1.0)
    assert len(slices.parts["scores"]) == 2
