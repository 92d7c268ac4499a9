"""Arms are compared by outcomes: differences are found and none made up, at any time."""

import numpy as np
import pytest

from salver.rollout.outcomes import BETTER, NOTHING, UNDECIDED, WORSE, Cell, Design, report

ALPHA = 0.05


def design(*, sticky: bool) -> Design:
    """Return an experiment with two arms of one half each."""
    return Design(("m:1", "m:2"), {7: (5_000, 5_000)}, sticky)


def outcomes(
    rng: np.random.Generator, rates: dict[str, float], count: int, *, callers: int = 0
) -> list[Cell]:
    """Return outcomes of arms with these rates of success, half of the places each.

    With ``callers`` they have fixed places and several outcomes each, else each has its own.
    """
    places = rng.integers(0, 10_000, callers or count)
    chosen = places[rng.integers(0, callers, count)] if callers else places
    cells = []
    for place in chosen.tolist():
        arm = "m:2" if place < 5_000 else "m:1"
        value = float(rng.random() < rates[arm])
        cells.append(Cell(arm, 7, place, 1, value, value))
    return cells


@pytest.mark.parametrize("callers", [0, 3_000])
def test_a_difference_is_found(callers: int) -> None:
    """In either direction; the interval holds the truth."""
    rng = np.random.default_rng(1)
    for rates, verdict in (({"m:1": 0.1, "m:2": 0.2}, BETTER), ({"m:1": 0.2, "m:2": 0.1}, WORSE)):
        cells = outcomes(rng, rates, 8_000, callers=callers)
        first, second = report(design(sticky=callers > 0), cells, ALPHA)
        assert second.verdict == verdict
        assert second.low is not None
        assert second.high is not None
        assert second.low <= rates["m:2"] - rates["m:1"] <= second.high
        assert first.outcomes + second.outcomes == 8_000
        assert first.mean == pytest.approx(rates["m:1"], abs=0.02)


def test_looking_often_finds_no_difference_that_is_not_there() -> None:
    """Of 60 experiments without a difference, looked at ten times each, hardly any shows one."""
    wrong = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cells = outcomes(rng, {"m:1": 0.1, "m:2": 0.1}, 3_000)
        looks = (report(design(sticky=False), cells[: n * 300], ALPHA)[1] for n in range(1, 11))
        wrong += any(look.verdict in (BETTER, WORSE) for look in looks)
    # Three standard errors above 5 % of 60.
    assert wrong <= 8


def test_means_of_any_size_are_compared() -> None:
    """Revenue is no event."""
    rng = np.random.default_rng(3)
    cells = []
    for place in rng.integers(0, 10_000, 6_000).tolist():
        arm = "m:2" if place < 5_000 else "m:1"
        value = float(rng.gamma(2.0, 12.0 if arm == "m:2" else 10.0))
        cells.append(Cell(arm, 7, place, 1, value, value * value))
    _, second = report(design(sticky=False), cells, ALPHA)
    assert second.verdict == BETTER
    assert second.estimate == pytest.approx(4.0, abs=1.5)


def test_what_chance_did_not_decide_is_left_out() -> None:
    """Outcomes of rules and of callers that named a version have no place."""
    cells = [Cell("m:2", 7, -1, 100, 100.0, 100.0), Cell("m:1", 7, 9_000, 10, 1.0, 1.0)]
    first, second = report(design(sticky=True), cells, ALPHA)
    assert (first.outcomes, second.outcomes, second.verdict) == (10, 0, NOTHING)


def test_several_arms_are_each_compared_with_the_first() -> None:
    """Splits need not be even, and nothing is shown by little."""
    arms = Design(("m:1", "m:2", "m:3"), {7: (6_000, 2_000, 2_000)}, sticky=True)
    cells = [
        Cell(name, 7, place, 5, 1.0, 1.0)
        for name, place in (("m:1", 8_000), ("m:2", 100), ("m:3", 3_000))
    ]
    found = report(arms, cells, ALPHA)
    assert [arm.arm for arm in found] == ["m:1", "m:2", "m:3"]
    assert [arm.verdict for arm in found] == ["", UNDECIDED, UNDECIDED]


def test_epochs_in_which_an_arm_could_not_answer_are_left_out() -> None:
    """Before all arms are loaded, the primary one has more than its part."""
    cells = [Cell("m:1", 6, 2_000, 50, 50.0, 50.0), Cell("m:1", 7, 9_000, 10, 1.0, 1.0)]
    first, _ = report(design(sticky=False), cells, ALPHA)
    assert (first.outcomes, first.mean) == (10, 0.1)


def moving(*, sticky: bool, floor: int = 1_000) -> Design:
    """Return an experiment whose weights have followed success."""
    return Design(("m:1", "m:2"), {7: (5_000, 5_000), 8: (1_000, 9_000)}, sticky, floor)


def test_callers_that_stick_are_compared_in_the_floors() -> None:
    """Who was moved by success says nothing; those in the floors never moved."""
    cells = [
        Cell("m:2", 7, 500, 5, 1.0, 1.0),
        Cell("m:1", 7, 1_500, 5, 1.0, 1.0),
        Cell("m:2", 8, 4_000, 500, 400.0, 400.0),
        Cell("m:2", 8, 999, 2, 1.0, 1.0),
        Cell("m:1", 8, 2_000, 9, 9.0, 9.0),
    ]
    first, second = report(moving(sticky=True), cells, ALPHA)
    assert (first.outcomes, first.compared, first.mean) == (14, 5, 0.2)
    assert (second.outcomes, second.compared) == (507, 7)
    assert second.estimate == pytest.approx(2 / 7 - 1 / 5)


def test_single_requests_are_compared_inside_blocks() -> None:
    """An hour in which everybody fares well does not favour the arm that had most of it."""
    cells = []
    for epoch, rate, weights in ((7, 0.2, (5_000, 5_000)), (8, 0.6, (1_000, 9_000))):
        for arm, weight in zip(("m:1", "m:2"), weights, strict=True):
            won = float(rate * weight)
            cells.append(Cell(arm, epoch, 100, weight, won, won))
    first, second = report(moving(sticky=False), cells, ALPHA)
    assert second.estimate == pytest.approx(0.0, abs=1e-12)
    assert second.verdict == UNDECIDED
    assert first.mean == pytest.approx(second.mean)
    assert second.compared == 14_000


def habits(rng: np.random.Generator, effect: float) -> tuple[list[Cell], dict[int, float]]:
    """Return outcomes of callers who spend as they did before, and what they spent before."""
    cells, before = [], {}
    for place in rng.permutation(10_000)[:1_500].tolist():
        habit = float(rng.normal(5.0, 2.0))
        before[place] = habit + float(rng.normal(0.0, 0.5))
        values = habit + effect * (place < 5_000) + rng.normal(0.0, 1.0, 4)
        arm = "m:2" if place < 5_000 else "m:1"
        cells.append(Cell(arm, 7, place, 4, float(values.sum()), float((values**2).sum())))
    return cells, before


def test_what_was_known_before_narrows_the_interval() -> None:
    """To less than half, around the truth; what nobody knows of a caller does no harm."""
    cells, before = habits(np.random.default_rng(2), 0.3)
    plain = report(design(sticky=True), cells, ALPHA)[1]
    better = report(design(sticky=True), cells, ALPHA, before)[1]
    some = {place: value for place, value in before.items() if place % 3}
    partly = report(design(sticky=True), cells, ALPHA, some)[1]
    widths = []
    for each in (better, partly, plain):
        assert each.low is not None
        assert each.high is not None
        assert each.low < 0.3 < each.high
        widths.append(each.high - each.low)
    assert widths[0] < widths[2] / 2
    assert widths[0] < widths[1] < widths[2]


def test_without_keys_nothing_was_known() -> None:
    """Nobody is at a place, so what was known of one says nothing."""
    cells, before = habits(np.random.default_rng(2), 0.3)
    assert report(design(sticky=False), cells, ALPHA, before) == report(
        design(sticky=False), cells, ALPHA
    )
