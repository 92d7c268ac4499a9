"""A comparison of counts at any time, for copies of requests: each is a draw of its own.

For each arm's share there is an interval that is right at all times
together (a beta mixture of the likelihood, Robbins 1970), so one may look as often as one likes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

ALPHA = 0.05
ERROR_MARGIN = 0.001
SLOW_MARGIN = 0.03
QUANTILE = 0.95
BETTER, EQUIVALENT, WORSE, NOT_ENOUGH = "better", "equivalent", "worse", "not enough data"
_PRIOR = 0.5
_HALVINGS = 50


class Share(NamedTuple):
    """How many of how many."""

    hits: int
    total: int

    def plus(self, other: "Share") -> "Share":
        """Return both together."""
        return Share(self.hits + other.hits, self.total + other.total)


class Metric(msgspec.Struct, frozen=True):
    """One comparison; ``estimate``, ``low`` and ``high`` are the canary's share less the primary's.

    ``verdict`` says what follows for ``margin``, the increase that does no harm.
    """

    name: str
    verdict: str
    critical: bool
    margin: float
    estimate: float | None
    low: float
    high: float
    n_canary: int
    n_primary: int

    def line(self) -> dict[str, Any]:
        """Return it as it is kept in a history."""
        line: dict[str, Any] = msgspec.structs.asdict(self)
        return line

    def words(self) -> str:
        """Return what is wrong with it, for people."""
        return (
            f"{self.name} is worse by {self.estimate or 0.0:.3g}, at least {self.low:.3g} where "
            f"{self.margin:g} is tolerated"
        )


def compare(name: str, canary: Share, primary: Share, margin: float, *, critical: bool) -> Metric:
    """Compare two shares of requests; a larger one is worse."""
    low_c, high_c = interval(canary, ALPHA / 4)
    low_p, high_p = interval(primary, ALPHA / 4)
    low, high = low_c - high_p, high_c - low_p
    verdict = NOT_ENOUGH
    if low > margin:
        verdict = WORSE
    elif high < 0:
        verdict = BETTER
    elif high <= margin:
        verdict = EQUIVALENT
    estimate = None
    if canary.total and primary.total:
        estimate = canary.hits / canary.total - primary.hits / primary.total
    return Metric(name, verdict, critical, margin, estimate, low, high, canary.total, primary.total)


def compare_with_none(name: str, canary: Share, margin: float, *, critical: bool) -> Metric:
    """Compare a share with one that is 0 by its nature, and so known without counting.

    ``n_primary`` is the canary's total: each of its draws has a partner that did no such thing.
    """
    low, high = interval(canary, ALPHA / 2)
    verdict = NOT_ENOUGH
    if low > margin:
        verdict = WORSE
    elif high <= margin:
        verdict = EQUIVALENT
    estimate = canary.hits / canary.total if canary.total else None
    return Metric(name, verdict, critical, margin, estimate, low, high, canary.total, canary.total)


def slower(canary: list[int], primary: list[int]) -> tuple[Share, Share]:
    """Return the shares above the bucket that holds the primary's 95th percentile.

    Both are counts per bucket, of the same bounds; empty lists are nothing counted.
    """
    total, seen, place = sum(primary), 0, 0
    while place < len(primary) and seen + primary[place] < QUANTILE * total:
        seen += primary[place]
        place += 1
    one, other = (Share(sum(row[place + 1 :]), sum(row)) for row in (canary, primary))
    return one, other


def interval(share: Share, alpha: float) -> tuple[float, float]:
    """Return the interval that holds the true share at all times, but for a chance of ``alpha``."""
    hits, total = share
    if not total:
        return 0.0, 1.0
    bound = math.log(1 / alpha)
    a, b = _PRIOR + hits, _PRIOR + total - hits
    mixture = _log_beta(a, b) - _log_beta(_PRIOR, _PRIOR)

    def rejects(p: float) -> bool:
        return mixture - _log_likelihood(p, hits, total) > bound

    seen = hits / total
    low = 0.0 if not rejects(0.0) else _edge(rejects, 0.0, seen)
    high = 1.0 if not rejects(1.0) else _edge(rejects, 1.0, seen)
    return low, high


def _edge(rejects: Callable[[float], bool], outside: float, inside: float) -> float:
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if rejects(middle) else (outside, middle)
    return outside


def _log_likelihood(p: float, hits: int, total: int) -> float:
    misses = total - hits
    if (p <= 0 and hits) or (p >= 1 and misses):
        return -math.inf
    first = hits * math.log(p) if hits else 0.0
    return first + (misses * math.log1p(-p) if misses else 0.0)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
