"""Searches the highest rate that meets an objective: growth by a factor, then bisection.

Pure: it says which rate to try next and is told how that went.
"""

from dataclasses import dataclass

from salver.bench.figures import Capacity, Limit

LOWEST_PER_S = 1.0


@dataclass(frozen=True, slots=True)
class RampSettings:
    """How to search: from where, how fast to grow, up to where, how close, in how many steps."""

    start_per_s: float
    max_rate_per_s: float
    growth: float = 2.0
    precision: float = 0.05
    max_steps: int = 24


class Search:
    """One search. A rate counts as too high only when it has failed twice.

    On a machine that does other work a single bad moment must not halve the answer.
    """

    def __init__(self, settings: RampSettings) -> None:
        self._settings = settings
        self._low = 0.0
        self._high: float | None = None
        self._generator_limited = False
        self._failed_once = False
        self._steps = 0
        self._limit: Limit | None = None
        self._rate = min(settings.start_per_s, settings.max_rate_per_s)

    def next_rate(self) -> float | None:
        """Return the rate to try next, or None when the search is over."""
        if self._limit is not None:
            return None
        if self._steps >= self._settings.max_steps:
            self._limit = Limit.STEPS
            return None
        return self._rate

    def tell(self, *, met: bool, generator_limited: bool = False) -> None:
        """Say whether the rate met the objective, and whether the generator was in the way."""
        self._steps += 1
        if met:
            self._failed_once = False
            self._low = self._rate
            self._choose()
        elif not self._failed_once:
            self._failed_once = True
        else:
            self._failed_once = False
            self._high, self._generator_limited = self._rate, generator_limited
            self._choose()

    def interrupt(self) -> None:
        """End the search with what is known."""
        self._limit = self._limit or Limit.INTERRUPTED

    @property
    def capacity(self) -> Capacity:
        """What is known so far."""
        return Capacity(self._low, self._high, self._limit or Limit.STEPS)

    def _choose(self) -> None:
        settings = self._settings
        if self._high is None:
            if self._low >= settings.max_rate_per_s:
                self._limit = Limit.MAX_RATE
            self._rate = min(self._low * settings.growth, settings.max_rate_per_s)
        elif not self._low:
            if self._high <= LOWEST_PER_S:
                self._limit = self._who()
            self._rate = max(self._high / settings.growth, LOWEST_PER_S)
        elif self._high <= self._low * (1 + settings.precision):
            self._limit = self._who()
        else:
            self._rate = (self._low * self._high) ** 0.5

    def _who(self) -> Limit:
        # Where the generator was late just above, the server might have gone further.
        return Limit.GENERATOR if self._generator_limited else Limit.SERVER
