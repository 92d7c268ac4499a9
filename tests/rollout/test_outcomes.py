"""Arms are compared by outcomes: differences are found and none made up, at any time."""

import numpy as np
import pytest

from salver.rollout.outcomes import BETTER, NOTHING, UNDECIDED, WORSE, Cell, report

ARMS = [("m:1", 5_000), ("m:2", 5_000)]
ALPHA = 0.05


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
        first, second = report(ARMS, cells, ALPHA, sticky=callers > 0)
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
        looks = (report(ARMS, cells[: n * 300], ALPHA, sticky=False)[1] for n in range(1, 11))
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
    _, second = report(ARMS, cells, ALPHA, sticky=False)
    assert second.verdict == BETTER
    assert second.estimate == pytest.approx(4.0, abs=1.5)


def test_what_chance_did_not_decide_is_left_out() -> None:
    """Outcomes of rules and of callers that named a version have no place."""
    cells = [Cell("m:2", 7, -1, 100, 100.0, 100.0), Cell("m:1", 7, 9_000, 10, 1.0, 1.0)]
    first, second = report(ARMS, cells, ALPHA, sticky=True)
    assert (first.outcomes, second.outcomes, second.verdict) == (10, 0, NOTHING)


def test_several_arms_are_each_compared_with_the_first() -> None:
    """Splits need not be even, and nothing is shown by little."""
    arms = [("m:1", 6_000), ("m:2", 2_000), ("m:3", 2_000)]
    cells = [
        Cell(name, 7, place, 5, 1.0, 1.0)
        for name, place in (("m:1", 8_000), ("m:2", 100), ("m:3", 3_000))
    ]
    found = report(arms, cells, ALPHA, sticky=True)
    assert [arm.arm for arm in found] == ["m:1", "m:2", "m:3"]
    assert [arm.verdict for arm in found] == ["", UNDECIDED, UNDECIDED]
