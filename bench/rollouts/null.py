"""Both versions the same: how many rollouts end in a roll-back nevertheless."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from bench.rollouts.callers import Harm, requests
from bench.rollouts.watch import Step, World, watch
from salver.rollout.policy import Policy

REQUESTS = 20_000
BATCH = 200
STEADY = (Step(500, REQUESTS),)
STEPS = (Step(500, 8_000), Step(2500, 14_000), Step(5000, REQUESTS))


TOLERATED = Harm(error_rate=0.001, latency=0.03, class_share=0.01)
"""What the policy tolerates, to the full: the canary may not be called worse for it."""


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


def false_alarms(runs: int, policy: Policy, world: World, seed: int) -> FalseAlarms:
    """Watch rollouts until their end, or until a metric is called worse."""
    found: Counter[str] = Counter()
    alarms = 0
    for run in range(runs):
        rng = np.random.default_rng((seed, run))
        traffic = requests(rng, REQUESTS, alike=world.alike)
        for look in watch(traffic, world, policy, BATCH):
            if look.worse:
                alarms += 1
                found.update(look.worse)
                break
    return FalseAlarms(runs, alarms, policy.alpha, dict(found))
