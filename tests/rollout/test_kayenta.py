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
    assert kayenta.report(spec, None).verdict is Verdict.NOT_ENOUGH
    assert kayenta.report(spec, Series(base[:49], slow)).verdict is Verdict.NOT_ENOUGH
    assert kayenta.report(spec, Series(base, (math.nan,) * 60)).verdict is Verdict.NOT_ENOUGH
    assert kayenta.report(spec, Series(base, slow)).verdict is Verdict.WORSE
    assert kayenta.report(spec, Series(base, same)).verdict is Verdict.EQUIVALENT
    assert kayenta.report(spec, Series(slow, base)).verdict is Verdict.EQUIVALENT
