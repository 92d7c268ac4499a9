"""A harmful canary: how many of its requests until it is rolled back.

Beside it Wald's sequential probability ratio test, which is told the primary's rate and the
harm, and needs fewer requests on the average than any other test with the same errors.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bench.rollouts.callers import (
    CLASS_SHARE,
    ERROR_RATE,
    REFUSAL_RATE,
    WARMUP_REQUESTS,
    Harm,
    latencies,
    requests,
)
from bench.rollouts.watch import POLICY, Step, World, watch
from salver.rollout.betting import Counts, Sample
from salver.rollout.metrics.base import harmful
from salver.rollout.policy import MetricSpec, Policy
from salver.rollout.tally import POINTS

WEIGHT = 500
POWER = 0.95
_GROWTH = 0.01
_FIRST_BATCH = 40
_MOST = 2_000_000
_CAP_STICKY = 100_000


class Case(NamedTuple):
    """A harm, the metric that must see it, and the shares that a test of known rates compares."""

    name: str
    metric: str
    harm: Harm
    null: float
    truth: float


class Found(NamedTuple):
    """Canary requests until the roll-back: the median and the middle half, beside Wald's."""

    case: Case
    median: float
    quarter: float
    three_quarters: float
    wald: float
    allowed: float


def wald(null: float, truth: float, alpha: float, power: float = POWER) -> float:
    """Return the expected requests of Wald's test of two known shares, by his approximation."""
    upper, lower = math.log(power / alpha), math.log((1 - power) / (1 - alpha))
    gain = truth * math.log(truth / null) + (1 - truth) * math.log((1 - truth) / (1 - null))
    return (power * upper + (1 - power) * lower) / gain


def cases() -> list[Case]:
    """Return the harms of the table."""
    of_kind = {spec.kind: spec for spec in reversed(POLICY.metrics)}
    error, refused = of_kind["error_rate"], of_kind["refusal_rate"]
    slow = next(spec for spec in POLICY.metrics if spec.name == "latency_p95")
    classes = of_kind["class_share"]
    usual = np.sort(latencies(np.random.default_rng(99), 4_000_000))
    quantile = float(np.quantile(usual, slow.quantile))

    def above(factor: float) -> float:
        return 1 - float(np.searchsorted(usual, quantile / factor)) / len(usual)

    found = [
        Case(
            f"errors {ERROR_RATE:.1%} → {rate:.0%}",
            error.name,
            Harm(error_rate=rate - ERROR_RATE),
            ERROR_RATE + error.max_increase,
            rate,
        )
        for rate in (0.01, 0.02, 0.05)
    ]
    found += [
        Case(
            f"p95 +{more:.0%}",
            slow.name,
            Harm(latency=more),
            above(1 + slow.max_increase),
            above(1 + more),
        )
        for more in (0.1, 0.5)
    ]
    share = CLASS_SHARE + 0.05
    null = CLASS_SHARE + classes.max_increase
    return [
        *found,
        Case(
            f"refused {REFUSAL_RATE:.1%} → 2%",
            refused.name,
            Harm(refusal_rate=0.02 - REFUSAL_RATE),
            REFUSAL_RATE + refused.max_increase,
            0.02,
        ),
        Case("class share +5 points", classes.name, Harm(class_share=0.05), null, share),
    ]


def independent(case: Case, runs: int, seed: int) -> Found:
    """Requests without routing keys: each has its own random point."""
    spec = next(m for m in POLICY.metrics if m.name == case.metric)
    usual = np.sort(latencies(np.random.default_rng(99), 1_000_000))
    stops = [_independent_run(case, spec, (seed, run), _chances(usual)) for run in range(runs)]
    return _found(case, stops)


def sticky(case: Case, runs: int, seed: int) -> Found:
    """Zipf-distributed callers that stick, each with habits of its own."""
    spec = next(m for m in POLICY.metrics if m.name == case.metric)
    # The other metrics are left out, not their part of alpha.
    policy = Policy(alpha=POLICY.alpha_of(spec), metrics=(spec,))
    stops = []
    for run in range(runs):
        traffic = requests(np.random.default_rng((seed, run)), _CAP_STICKY)
        world = World((Step(WEIGHT, _CAP_STICKY),), harm=case.harm)
        stop = math.inf
        for look in watch(traffic, world, policy, _CAP_STICKY // 200):
            if case.metric in look.worse:
                stop = look.canary_requests
                break
        stops.append(stop)
    return _found(case, stops)


Chances = Callable[[Case, MetricSpec, np.random.Generator], tuple[float, float]]


def _chances(usual: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Chances:
    """Return how likely an event is for the canary and the primary."""

    def slow(threshold: float) -> float:
        return 1 - float(np.searchsorted(usual, threshold)) / len(usual)

    def chances(case: Case, spec: MetricSpec, rng: np.random.Generator) -> tuple[float, float]:
        if spec.kind == "latency":
            # The threshold is what a warm-up showed of the primary, not the true quantile.
            seen = float(np.quantile(latencies(rng, WARMUP_REQUESTS), spec.quantile))
            allowed = seen * (1 + spec.max_increase)
            return slow(allowed / (1 + case.harm.latency)), slow(seen)
        rates = {"error_rate": ERROR_RATE, "refusal_rate": REFUSAL_RATE, "class_share": CLASS_SHARE}
        usual_rate = rates[spec.kind]
        harm = case.harm
        return usual_rate + harm.error_rate + harm.class_share + harm.refusal_rate, usual_rate

    return chances


def _independent_run(
    case: Case, spec: MetricSpec, seed: tuple[int, int], chances: Chances
) -> float:
    rng = np.random.default_rng(seed)
    canary_chance, primary_chance = chances(case, spec, rng)
    chance = np.array([canary_chance, primary_chance])
    n, events, canary = np.zeros(2), np.zeros(2), np.array([True, False])
    margin = 0.0 if spec.kind == "latency" else spec.max_increase
    while n.sum() < _MOST:
        size = max(_FIRST_BATCH, int(_GROWTH * n.sum()))
        mine = rng.binomial(size, WEIGHT / POINTS)
        new = np.array([mine, size - mine])
        n += new
        events += rng.binomial(new, chance)
        counts = Counts(WEIGHT / POINTS, n * canary, events * canary, n * ~canary, events * ~canary)
        sample = Sample((counts,), alone=True)
        if harmful(sample, spec, POLICY.alpha_of(spec), margin):
            return float(n[0])
    return math.inf


def _found(case: Case, stops: list[float]) -> Found:
    needs = wald(case.null, case.truth, POLICY.alpha)
    # Not numpy's quantile, which cannot do with runs that never stop.
    ordered = sorted(stops)
    quarter, median, three_quarters = (
        ordered[int(share * (len(stops) - 1))] for share in (0.25, 0.5, 0.75)
    )
    allowed = 2 * needs + 5 / case.truth
    return Found(case, median, quarter, three_quarters, needs, allowed)
