"""Both versions the same: how many rollouts end in a roll-back nevertheless."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from bench.rollouts.callers import Harm, requests
from bench.rollouts.watch import Step, World, watch
from salver.rollout.policy import Policy

REQUESTS = 20_000
BATCH = 200
STEADY = (Step(500, REQUESTS),)
STEPS = (Step(500, 8_000), Step(2500, 14_000), Step(5000, REQUESTS))


TOLERATED = Harm(error_rate=0.001, latency=0.03, class_share=0.01, refusal_rate=0.001)
"""What the policy tolerates, to the full: the canary may not be called worse for it."""

Each = Callable[[Callable[[int], tuple[str, ...]], Iterable[int]], Iterable[tuple[str, ...]]]


class FalseAlarms(NamedTuple):
    """How many of the runs were rolled back, and because of what."""

    runs: int
    alarms: int
    alpha: float
    metrics: dict[str, int]

    @property
    def allowed(self) -> float:
        """The rate that chance allows: alpha and three standard errors."""
        return self.alpha + 3 * math.sqrt(self.alpha * (1 - self.alpha) / self.runs)


def false_alarms(
    runs: int, policy: Policy, world: World, seed: int, each: Each = map
) -> FalseAlarms:
    """Watch rollouts until their end, or until a metric is called worse.

    ``each`` is ``map``, or that of a pool: every run has its own seed, so the outcome is the same.
    """
    found: Counter[str] = Counter()
    alarms = 0
    for worse in each(partial(_worse, policy, world, seed), range(runs)):
        alarms += bool(worse)
        found.update(worse)
    return FalseAlarms(runs, alarms, policy.alpha, dict(found))


def _worse(policy: Policy, world: World, seed: int, run: int) -> tuple[str, ...]:
    """Return the metrics that ended one rollout, none for one that came to its end."""
    traffic = requests(np.random.default_rng((seed, run)), REQUESTS, alike=world.alike)
    looks = watch(traffic, world, policy, BATCH)
    return next((tuple(look.worse) for look in looks if look.worse), ())
