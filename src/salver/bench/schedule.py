"""When requests are due, drawn before the first is sent, so that no answer can move them."""

import numpy as np
import numpy.typing as npt

from salver.bench.figures import Arrivals
from salver.core.errors import InvalidSettings

MAX_REQUESTS = 5_000_000
_NS = 1e9
_SPARE_DEVIATIONS = 6.0
_SPARE = 16

Times = npt.NDArray[np.int64]


def arrival_times(arrivals: Arrivals, rate_per_s: float, duration_s: float, seed: int) -> Times:
    """Return when requests are due: nanoseconds after the start, sorted, below the duration.

    ``CONSTANT`` has equal gaps and begins at 0; ``POISSON`` has exponential gaps, as many
    independent callers make them, and is the same for the same seed. Raises ``InvalidSettings``
    for a rate or duration that is not positive and for more than ``MAX_REQUESTS``.
    """
    expected = rate_per_s * duration_s
    if not (rate_per_s > 0 and duration_s > 0 and expected < float("inf")):
        raise InvalidSettings("a rate and a duration are numbers above 0")
    if expected > MAX_REQUESTS:
        raise InvalidSettings(
            f"{rate_per_s:g} requests/s for {duration_s:g} s are more than {MAX_REQUESTS:,}, of "
            "which every time is kept; take a shorter --duration"
        )
    if arrivals is Arrivals.CONSTANT:
        times = np.arange(np.ceil(expected)) * (_NS / rate_per_s)
    else:
        times = _poisson(rate_per_s, duration_s, np.random.default_rng(seed))
    whole = times.astype(np.int64)
    return whole[whole < round(duration_s * _NS)]


def _poisson(
    rate_per_s: float, duration_s: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    expected = rate_per_s * duration_s
    count = int(expected + _SPARE_DEVIATIONS * expected**0.5) + _SPARE
    times = np.cumsum(generator.exponential(_NS / rate_per_s, count))
    while times[-1] < duration_s * _NS:
        more = np.cumsum(generator.exponential(_NS / rate_per_s, count))
        times = np.concatenate((times, times[-1] + more))
    return times
