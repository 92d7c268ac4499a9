"""The Mann-Whitney U test with the Hodges-Lehmann interval, as R's ``wilcox.test`` finds it.

The interval's ends are the shifts at which the standardised, continuity-corrected rank sum
crosses a quantile of the normal distribution. They are searched with Brent's method and R's
tolerance, so that they agree with R's and with Kayenta's beyond the tolerance itself.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from salver.core.errors import InvalidRequest
from salver.rollout.tally import Floats

_TOLERANCE = 1e-4
_ITERATIONS = 1000
_EPSILON = float(np.finfo(np.float64).eps)


class Shift(NamedTuple):
    """How far the experiment lies above the control: the interval, and the estimate."""

    low: float
    high: float
    estimate: float


def ranks(values: Floats) -> tuple[Floats, Floats]:
    """Return each value's rank from 1, ties sharing their mean, and the sizes of all ties."""
    _, place, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return (last - (sizes - 1) / 2.0)[place], sizes.astype(np.float64)


def standard_score(shift: float, experiment: Floats, control: Floats) -> float:
    """Return the standardised rank sum of the experiment moved down by ``shift``.

    Raises ``InvalidRequest`` when all values are equal, for then there is no spread.
    """
    m, n = float(len(experiment)), float(len(control))
    ranked, ties = ranks(np.concatenate((experiment - shift, control)))
    surplus = float(ranked[: len(experiment)].sum()) - m * (m + 1.0) / 2.0 - m * n / 2.0
    tied = float((ties**3 - ties).sum()) / ((m + n) * (m + n - 1.0))
    variance = m * n / 12.0 * (m + n + 1.0 - tied)
    if variance <= 0.0:
        raise InvalidRequest("all values are equal; their shift has no interval")
    return (surplus - 0.5 * float(np.sign(surplus))) / math.sqrt(variance)


def hodges_lehmann(experiment: Floats, control: Floats, confidence: float) -> Shift:
    """Return the shift between two samples; raises ``InvalidRequest`` where none can be seen."""
    if not len(experiment) or not len(control):
        raise InvalidRequest("both samples need values")
    lowest = float(experiment.min() - control.max())
    highest = float(experiment.max() - control.min())
    quantile = NormalDist().inv_cdf((1.0 - confidence) / 2.0)

    def crossing(level: float, *, clamp: bool = True) -> float:
        def score(shift: float) -> float:
            return standard_score(shift, experiment, control) - level

        at_lowest, at_highest = score(lowest), score(highest)
        if clamp and at_lowest <= 0.0:
            return lowest
        if clamp and at_highest >= 0.0:
            return highest
        return brent(score, lowest, highest)

    return Shift(crossing(-quantile), crossing(quantile), crossing(0.0, clamp=False))


def brent(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function crosses zero between two points, by Brent's method.

    ``best`` is the best root so far, ``last`` the one before, and the root lies between ``best``
    and ``other``.
    """
    last, best, other = low, high, low
    f_last, f_best = function(low), function(high)
    f_other = f_last
    if f_last == 0.0:
        return low
    for _ in range(_ITERATIONS):
        if f_best == 0.0:
            break
        previous = best - last
        if abs(f_other) < abs(f_best):
            last, best, other = best, other, best
            f_last, f_best, f_other = f_best, f_other, f_best
        tolerance = 2.0 * _EPSILON * abs(best) + _TOLERANCE / 2.0
        half = (other - best) / 2.0
        if abs(half) <= tolerance or f_best == 0.0:
            break
        step = half
        if abs(previous) >= tolerance and abs(f_last) > abs(f_best):
            step = _interpolated(
                (last, best, other), (f_last, f_best, f_other), previous, tolerance
            )
        if abs(step) < tolerance:
            step = math.copysign(tolerance, step) if step else -tolerance
        last, f_last = best, f_best
        best += step
        f_best = function(best)
        if f_best * f_other > 0.0:
            other, f_other = last, f_last
    return best


def _interpolated(
    points: tuple[float, float, float],
    values: tuple[float, float, float],
    previous: float,
    tolerance: float,
) -> float:
    """Return the step to where a line or parabola crosses zero; half where it overshoots."""
    last, best, other = points
    f_last, f_best, f_other = values
    gap = other - best
    if last == other:
        slope = f_best / f_last
        over, under = gap * slope, 1.0 - slope
    else:
        a, b, c = f_last / f_other, f_best / f_other, f_best / f_last
        over = c * (gap * a * (a - b) - (best - last) * (b - 1.0))
        under = (a - 1.0) * (b - 1.0) * (c - 1.0)
    if over > 0.0:
        under = -under
    else:
        over = -over
    within = over < 0.75 * gap * under - abs(tolerance * under) / 2.0
    if within and over < abs(previous * under / 2.0):
        return over / under
    return gap / 2.0
