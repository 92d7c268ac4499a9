"""The classic comparison, held against scipy and against the public vectors of Kayenta's judge.

``kayenta.json`` holds the numbers of its test suites, as of commit a69573b: inputs and results.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, stats

from salver.core.errors import InvalidRequest
from salver.rollout import kayenta
from salver.rollout.kayenta import Series, Settings, classify
from salver.rollout.mann_whitney import brent, hodges_lehmann, ranks, standard_score
from salver.rollout.policy import MetricSpec
from salver.rollout.report import Verdict

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "kayenta.json").read_text())
AGREEMENT = 1e-6


def names(kind: str) -> list[str]:
    """Return the vectors' names."""
    return [vector["name"] for vector in VECTORS[kind]]


@pytest.mark.parametrize("vector", VECTORS["classification"], ids=names("classification"))
def test_a_vector_of_kayenta_is_classified_as_there(vector: dict[str, Any]) -> None:
    """Label, criticality and deviation are those of Kayenta's judge."""
    said = classify(
        vector["control"],
        vector["experiment"],
        Settings(
            direction=vector["direction"],
            critical=vector["critical"],
            tolerance=vector["tolerance"],
            confidence=vector["confidence"],
            measure=vector.get("measure", "ratio"),
            effect=vector.get("effect", (1.0, 1.0)),
            critical_effect=vector.get("critical_effect", (1.0, 1.0)),
            replace_missing=vector["replace"],
        ),
    )
    assert said.label == vector["expected"]
    if "expected_critical" in vector:
        assert said.critical == vector["expected_critical"]
    if "expected_ratio" in vector:
        expected = math.nan if vector["expected_ratio"] is None else vector["expected_ratio"]
        assert said.ratio == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("vector", VECTORS["intervals"], ids=names("intervals"))
def test_an_interval_of_kayenta_and_of_r_is_found(vector: dict[str, Any]) -> None:
    """Both ends and the estimate agree to a millionth, R's estimates to its own tolerance."""
    found = hodges_lehmann(
        np.array(vector["experiment"]), np.array(vector["control"]), vector["confidence"]
    )
    assert found.low == pytest.approx(vector["low"], abs=AGREEMENT)
    assert found.high == pytest.approx(vector["high"], abs=AGREEMENT)
    assert found.estimate == pytest.approx(
        vector["estimate"], abs=1e-4 if "R Version" in vector["name"] else AGREEMENT
    )


def test_standard_scores_of_kayenta_are_found() -> None:
    """The standardised rank sum agrees at both shifts that its suite names."""
    vector = VECTORS["standard_scores"]
    x, y = np.array(vector["experiment"]), np.array(vector["control"])
    for shift, score in vector["at"].items():
        assert standard_score(float(shift), x, y) == pytest.approx(score, rel=AGREEMENT)


@pytest.mark.parametrize("vector", VECTORS["effects"], ids=names("effects"))
def test_effect_sizes_of_kayenta_are_found(vector: dict[str, Any]) -> None:
    """The ratio of means and the common-language effect agree to the digits given."""
    measure = kayenta.cles if vector["measure"] == "cles" else kayenta.mean_ratio
    found = measure(np.array(vector["control"]), np.array(vector["experiment"]))
    expected = math.nan if vector["expected"] is None else vector["expected"]
    assert found == pytest.approx(expected, abs=1e-3, nan_ok=True)


SAMPLE = arrays(
    np.float64, st.integers(2, 40), elements=st.integers(-20, 20).map(lambda value: value / 2)
)


@given(SAMPLE, SAMPLE)
def test_scores_and_ranks_agree_with_scipy(
    experiment: np.ndarray[Any, Any], control: np.ndarray[Any, Any]
) -> None:
    """Ranks are scipy's, and the score gives scipy's asymptotic p-value, ties or not."""
    both = np.concatenate((experiment, control))
    found, _ = ranks(both)
    assert found == pytest.approx(stats.rankdata(both))
    if len(np.unique(both)) == 1:
        with pytest.raises(InvalidRequest, match="all values are equal"):
            standard_score(0.0, experiment, control)
        return
    score = standard_score(0.0, experiment, control)
    expected = stats.mannwhitneyu(experiment, control, method="asymptotic").pvalue
    assert min(2.0 * stats.norm.sf(abs(score)), 1.0) == pytest.approx(expected, rel=1e-9)


@given(st.floats(-5, 5), st.floats(0.1, 3))
def test_roots_agree_with_scipy(root: float, steepness: float) -> None:
    """Where a smooth function crosses zero is found within the tolerance."""

    def function(x: float) -> float:
        return math.tanh(steepness * (x - root)) + 0.1 * (x - root)

    found = brent(function, -10.0, 11.0)
    assert found == pytest.approx(optimize.brentq(function, -10.0, 11.0), abs=1e-4)


def test_few_values_are_not_enough() -> None:
    """Below 50 values of an arm nothing is said; with them harm is *worse*, else *equivalent*."""
    rng = np.random.default_rng(3)
    spec = MetricSpec("latency", "latency", 0.0)
    base, same, slow = (tuple(rng.normal(m, 1.0, 60)) for m in (10.0, 10.0, 12.0))

    def said(control: tuple[float, ...], experiment: tuple[float, ...]) -> Verdict:
        return kayenta.report(spec, {"": Series(control, experiment)}).verdict

    assert kayenta.report(spec, {}).verdict is Verdict.NOT_ENOUGH
    assert said(base[:49], slow) is Verdict.NOT_ENOUGH
    assert said(base, (math.nan,) * 60) is Verdict.NOT_ENOUGH
    assert said(base, slow) is Verdict.WORSE
    assert said(base, same) is Verdict.EQUIVALENT
    assert said(slow, base) is Verdict.EQUIVALENT


CLASSES = MetricSpec("classes", "class_share", 0.01, direction="either")


def shares(seed: int, moved: float) -> dict[str, Series]:
    """Return the shares of three classes in 60 slices, one of them moved, and of one unused."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, centre, shift in (("cat", 0.5, 0.0), ("dog", 0.3, moved), ("cow", 0.2, -moved / 4)):
        control, experiment = rng.normal(centre, 0.02, 60), rng.normal(centre + shift, 0.02, 60)
        found[name] = Series(tuple(control), tuple(experiment))
    return {**found, "emu": Series((0.0,) * 60, (0.0,) * 60)}


def inside(series: Series, shift: float, error: float) -> bool:
    """Say by scipy's test whether a shift of the experiment cannot be told from none."""
    moved = np.array(series.experiment) - shift
    told = stats.mannwhitneyu(moved, series.control, method="asymptotic")
    return bool(told.pvalue > error)


@pytest.mark.parametrize("moved", [0.05, -0.05])
def test_several_parts_are_corrected_for_how_many_move(moved: float) -> None:
    """The interval of the worst ends where scipy's p-value is 2 % over three, not over four."""
    parts = shares(5, moved)
    found = kayenta.report(CLASSES, parts)
    assert (found.verdict, found.reason.rpartition(" ")[2]) == (Verdict.WORSE, "dog")
    assert ("high" in found.reason, "low" in found.reason) == (moved > 0, moved < 0)
    assert found.low is not None
    assert found.high is not None
    for end, outward in ((found.low, -1.0), (found.high, 1.0)):
        assert inside(parts["dog"], end - outward * 1e-3, 0.02 / 3)
        assert not inside(parts["dog"], end + outward * 1e-3, 0.02 / 3)
    assert set(found.extra) == {"cat", "dog", "cow"}
    assert found.extra["dog"] == found.estimate
    assert found.alpha == pytest.approx(0.02)


def test_one_harmful_part_is_enough_however_far_others_moved() -> None:
    """What is shown is the harmful part, though a noisy one moved further."""
    rng = np.random.default_rng(8)
    noisy = Series(tuple(rng.normal(0.5, 0.4, 60)), tuple(rng.normal(0.6, 0.4, 60)))
    parts = {"noisy": noisy, "dog": shares(5, 0.05)["dog"]}
    found = kayenta.report(CLASSES, parts)
    assert abs(found.extra["noisy"]) > abs(found.extra["dog"])
    assert (found.verdict, found.reason) == (Verdict.WORSE, "Kayenta's judge says high: dog")


def test_parts_that_never_vary_are_equivalent() -> None:
    """Where only one class is ever predicted nothing has moved."""
    parts = {"cat": Series((1.0,) * 50, (1.0,) * 50), "dog": Series((0.0,) * 50, (0.0,) * 50)}
    found = kayenta.report(CLASSES, parts)
    assert (found.verdict, found.n_canary) == (Verdict.EQUIVALENT, 50)
