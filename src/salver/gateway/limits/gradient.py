"""How many requests a variant should have open: Gradient2, on what its workers measure.

Workers say of each request how long it waited and ran. When the short-term average of that rises
above the long-term one, more is open than helps, and the limit falls by the ratio of the two; else
it grows by its own square root. It falls faster than it grows: what is over it makes everybody
wait, and with a model that answers thirty a second a step takes a third of a second. Until it has
met the capacity for the first time it grows by half. Averages instead of minima, since requests of
one model may differ much in size.

Two things keep the long-term average from learning an overload as normal. It counts for no more
than so many runs, since a request need not wait for more than the batch before its own. And times
below a floor are never too long, whatever they are a multiple of.
"""

import math
from typing import NamedTuple

_LONG_NS = 60_000_000_000
_WARM_UP = 10
_LEAST_GRADIENT = 0.5
_RECOVERY_RATIO = 2.0
_RECOVERY = 0.95
_FIRST_GROWTH = 1.5


class GradientPolicy(NamedTuple):
    """How the limit moves.

    ``min_window_ns`` and ``min_samples`` are what one step needs, ``max_window_ns`` after which it
    is made with fewer. ``smoothing`` and ``falling`` are how far one step goes up and down.
    ``tolerance`` is how far times may rise above the average, ``runs`` how many run times that
    counts for at most, ``floor_ns`` what is never too long.
    """

    initial: int = 16
    least: int = 2
    most: int = 4096
    smoothing: float = 0.2
    falling: float = 0.6
    tolerance: float = 1.5
    runs: float = 2.0
    floor_ns: int = 5_000_000
    min_window_ns: int = 100_000_000
    max_window_ns: int = 1_000_000_000
    min_samples: int = 10


class Gradient2:
    """The limit of one variant; all times are monotonic nanoseconds.

    ``short_ns`` is the mean of the last step, 0 before the first, ``run_ns`` how much of it was
    spent running, and ``running`` how many ran at a time.
    """

    def __init__(self, policy: GradientPolicy, now_ns: int) -> None:
        self.policy = policy
        self.limit = policy.initial
        self.short_ns = 0.0
        self.run_ns = 0.0
        self.running = 1.0
        self._exact = float(policy.initial)
        self._long_ns = 0.0
        self._steps = 0
        self._has_met_it = False
        self._begin_ns = now_ns
        self._samples = 0
        self._sum_ns = self._run_sum_ns = 0

    def record(self, samples: int, total_ns: int, run_ns: int, peak: int, now_ns: int) -> bool:
        """Take times of answered requests: their sum, and how much of it was spent running.

        ``peak`` is how many were open at most since the last step. True if a step was made.
        """
        self._samples += samples
        self._sum_ns += total_ns
        self._run_sum_ns += run_ns
        elapsed_ns, policy = now_ns - self._begin_ns, self.policy
        is_due = self._samples >= policy.min_samples and elapsed_ns >= policy.min_window_ns
        if not is_due and not (self._samples and elapsed_ns >= policy.max_window_ns):
            return False
        # While there is little to do one runs at a time, and more would if more were asked.
        self.running = max(1.0, self._run_sum_ns / elapsed_ns)
        self._step(self._sum_ns / self._samples, self._run_sum_ns / self._samples, peak, elapsed_ns)
        self._begin_ns = now_ns
        self._samples = self._sum_ns = self._run_sum_ns = 0
        return True

    def _step(self, short_ns: float, run_ns: float, peak: int, elapsed_ns: int) -> None:
        policy, self.short_ns, self.run_ns = self.policy, short_ns, max(run_ns, 1.0)
        long_ns = self._learned(short_ns, elapsed_ns)
        if peak < self._exact / 2:
            # Too little was asked to learn anything about the limit.
            return
        usual_ns = max(policy.floor_ns, min(long_ns, policy.runs * run_ns))
        gradient = min(1.0, max(_LEAST_GRADIENT, policy.tolerance * usual_ns / max(short_ns, 1.0)))
        self._has_met_it = self._has_met_it or gradient < 1.0
        if self._has_met_it:
            wanted = self._exact * gradient + math.sqrt(self._exact)
            pace = policy.falling if wanted < self._exact else policy.smoothing
            moved = self._exact + pace * (wanted - self._exact)
        else:
            moved = self._exact * _FIRST_GROWTH
        self._exact = min(float(policy.most), max(float(policy.least), moved))
        self.limit = int(self._exact)

    def _learned(self, short_ns: float, elapsed_ns: int) -> float:
        """Return the long-term average with one more value."""
        self._steps += 1
        by_count, by_time = 1 / self._steps, 1 - math.exp(-elapsed_ns / _LONG_NS)
        weight = max(by_count, by_time) if self._steps <= _WARM_UP else by_time
        self._long_ns += weight * (short_ns - self._long_ns)
        if self._long_ns > _RECOVERY_RATIO * short_ns:
            # After an overload the average would take a minute to believe that it is over.
            self._long_ns *= _RECOVERY
        return self._long_ns
