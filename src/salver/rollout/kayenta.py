"""Comparison as Kayenta's judge makes it: time series, one look, High, Low or Pass.

For those who know it from Spinnaker. It needs about 50 values of each arm, and unlike the
sequential comparison it may be looked at once: each further look is one more chance to be wrong.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from salver.rollout.mann_whitney import Shift, hodges_lehmann, ranks
from salver.rollout.policy import Direction, MetricSpec
from salver.rollout.report import MetricReport, Verdict
from salver.rollout.tally import Floats

MIN_VALUES = 50
_NOISE = 1e-5
_SEED = 7


class Label(StrEnum):
    """How the experiment lies beside the control."""

    PASS = "pass"  # noqa: S105 - a label of Kayenta's, not a password
    HIGH = "high"
    LOW = "low"
    NO_DATA = "nodata"


class Series(msgspec.Struct, frozen=True):
    """A metric's values per time slice; NaN where a slice had none."""

    control: tuple[float, ...]
    experiment: tuple[float, ...]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Kayenta's own settings and defaults.

    ``effect`` and ``critical_effect`` are how low or high the effect size must be to matter;
    None is 1 for the ratio of means and 0.5 for ``cles``, the probability that a value of the
    experiment is above one of the control. ``replace_missing`` counts missing values as 0.
    """

    direction: Direction = "either"
    critical: bool = False
    tolerance: float = 0.25
    confidence: float = 0.98
    measure: Literal["ratio", "cles"] = "ratio"
    effect: tuple[float, float] | None = None
    critical_effect: tuple[float, float] | None = None
    replace_missing: bool = False


class Classification(NamedTuple):
    """What the judge says; ``ratio`` of the means is NaN where a mean is 0."""

    label: Label
    critical: bool
    ratio: float
    shift: Shift | None = None


def classify(
    control: Sequence[float], experiment: Sequence[float], settings: Settings
) -> Classification:
    """Compare two series. Values that are equal on each side get a trace of seeded noise."""
    base, tried = (_clean(values, settings) for values in (control, experiment))
    if not len(base) or not len(tried):
        if settings.replace_missing:
            return Classification(Label.PASS, critical=False, ratio=1.0)
        return Classification(Label.NO_DATA, settings.critical, 1.0)
    if np.array_equal(np.sort(base), np.sort(tried)) or len(np.unique([*base, *tried])) == 1:
        return Classification(Label.PASS, critical=False, ratio=1.0)
    if len(np.unique(base)) == 1 and len(np.unique(tried)) == 1:
        rng = np.random.default_rng(_SEED)
        base, tried = (v + rng.normal(0.0, _NOISE * abs(v[0]), len(v)) for v in (base, tried))
    shift = hodges_lehmann(tried, base, settings.confidence)
    effect = cles(base, tried) if settings.measure == "cles" else mean_ratio(base, tried)
    label = _label(shift, effect, settings)
    critical = (
        settings.critical
        and label is not Label.PASS
        and _matters(effect, _pair(settings.critical_effect, settings.measure), label)
    )
    return Classification(label, critical, mean_ratio(base, tried), shift)


def report(spec: MetricSpec, parts: Mapping[str, Series]) -> MetricReport:
    """Return the classification of a metric as a report; the harmful direction is *worse*.

    A metric of several numbers has a series for each, by name, and any that is harmful makes it
    *worse*; each interval is wider then, so that together they err no more often than one. What
    is reported is the part that is harmful, or else has too few values, or else moved, most. Fewer
    than ``MIN_VALUES`` values of an arm are not enough data, as Kayenta's makers advise, and
    whatever other parts say the metric is not *equivalent* then.
    """
    # A class that nobody predicts cannot raise a false alarm, and would only widen the others'.
    moving = {name: series for name, series in parts.items() if _moves(series)}
    told = moving or dict([*parts.items()][:1]) or {"": Series((), ())}
    settings = Settings(direction=spec.direction, critical=spec.critical)
    error = (1.0 - settings.confidence) / len(told)
    settings = msgspec.structs.replace(settings, confidence=1.0 - error)
    found = {name: classify(s.control, s.experiment, settings) for name, s in told.items()}
    name = max(found, key=lambda part: _weight(found[part], _measured(told[part])))
    said, measured = found[name], _measured(told[name])
    verdict = Verdict.EQUIVALENT if said.label is Label.PASS else Verdict.WORSE
    reason = f"Kayenta's judge says {said.label.value}{': ' + name if name else ''}"
    if min(measured) < MIN_VALUES:
        verdict, reason = Verdict.NOT_ENOUGH, f"{min(measured)} of {MIN_VALUES} values seen"
    return MetricReport(
        spec.name,
        verdict,
        spec.critical,
        spec.max_increase,
        relative=False,
        alpha=1.0 - Settings().confidence,
        estimate=said.shift.estimate if said.shift else None,
        low=said.shift.low if said.shift else None,
        high=said.shift.high if said.shift else None,
        n_canary=measured[0],
        n_primary=measured[1],
        reason=reason,
        extra={part: _estimate(each) for part, each in found.items() if part},
    )


def _moves(series: Series) -> bool:
    values = np.array([*series.control, *series.experiment])
    return len(np.unique(values[~np.isnan(values)])) > 1


def _measured(series: Series) -> tuple[int, int]:
    """Return how many values experiment and control have."""
    canary, primary = (
        sum(not math.isnan(value) for value in values)
        for values in (series.experiment, series.control)
    )
    return canary, primary


def _weight(said: Classification, measured: tuple[int, int]) -> tuple[bool, bool, float]:
    is_enough = min(measured) >= MIN_VALUES
    return is_enough and said.label is not Label.PASS, not is_enough, abs(_estimate(said))


def _estimate(said: Classification) -> float:
    return said.shift.estimate if said.shift else 0.0


def mean_ratio(control: Floats, experiment: Floats) -> float:
    """Return the experiment's mean over the control's; NaN where either is not above 0."""
    below, above = float(control.mean()), float(experiment.mean())
    # Of negative means the lower one has the higher ratio, which would hide a shift.
    return math.nan if below <= 0.0 or above <= 0.0 else above / below


def cles(control: Floats, experiment: Floats) -> float:
    """Return the probability that a value of the experiment is above one of the control."""
    m, n = len(experiment), len(control)
    ranked, _ = ranks(np.concatenate((experiment, control)))
    return (2.0 * float(ranked[:m].sum()) - m * (m + 1)) / (2.0 * n * m)


def _clean(values: Sequence[float], settings: Settings) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    missing = np.isnan(array)
    return np.where(missing, 0.0, array) if settings.replace_missing else array[~missing]


def _label(shift: Shift, effect: float, settings: Settings) -> Label:
    tolerated = settings.tolerance * abs(shift.estimate)
    thresholds = _pair(settings.effect, settings.measure)
    if settings.direction != "decrease" and shift.low > tolerated:
        return Label.HIGH if _matters(effect, thresholds, Label.HIGH) else Label.PASS
    if settings.direction != "increase" and shift.high < -tolerated:
        return Label.LOW if _matters(effect, thresholds, Label.LOW) else Label.PASS
    return Label.PASS


def _matters(effect: float, thresholds: tuple[float, float], label: Label) -> bool:
    if math.isnan(effect):
        return True
    return effect >= thresholds[1] if label is Label.HIGH else effect <= thresholds[0]


def _pair(given: tuple[float, float] | None, measure: str) -> tuple[float, float]:
    if given is not None:
        return given
    return (0.5, 0.5) if measure == "cles" else (1.0, 1.0)
