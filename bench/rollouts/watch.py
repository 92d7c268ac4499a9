"""Watching one simulated rollout: cumulative counts per segment after every batch."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bench.rollouts.callers import WARMUP_REQUESTS, Flags, Harm, Traffic, Whole
from salver.rollout.betting import Counts, Sample
from salver.rollout.metrics.base import harmful
from salver.rollout.policy import MetricSpec, Policy
from salver.rollout.tally import POINTS, SEGMENTS

Outcome = dict[str, Flags]

POLICY = Policy(
    metrics=(
        MetricSpec("error_rate", "error_rate", 0.001, share=10),
        MetricSpec("refusal_rate", "refusal_rate", 0.001, share=5),
        MetricSpec("latency_p95", "latency", 0.03, relative=True, share=42),
        MetricSpec("latency_p50", "latency", 0.03, relative=True, share=5, quantile=0.5),
        MetricSpec("latency_p99", "latency", 0.1, relative=True, share=5, quantile=0.99),
        MetricSpec("class_share", "class_share", 0.01, share=38, label="a"),
    )
)
STRICT = Policy(
    metrics=tuple(
        MetricSpec(m.name, m.kind, 0.0, relative=m.relative, share=m.share, quantile=m.quantile)
        for m in POLICY.metrics
    )
)
"""The same with margins of nothing: the hardest case for false alarms."""


class Step(NamedTuple):
    """A block: the canary's weight in basis points, and where its requests end."""

    weight: int
    end: int


def outcomes(traffic: Traffic, canary: Flags, harm: Harm, policy: Policy) -> Outcome:
    """Return for each metric which requests count as events."""
    failed = traffic.luck < traffic.failure + harm.error_rate * canary
    slow = traffic.latency_s * np.where(canary, 1.0 + harm.latency, 1.0)
    found: Outcome = {}
    for spec in policy.metrics:
        if spec.kind == "error_rate":
            found[spec.name] = failed
        elif spec.kind == "refusal_rate":
            found[spec.name] = traffic.sense < traffic.mistake + harm.refusal_rate * canary
        elif spec.kind == "latency":
            threshold = np.quantile(traffic.latency_s[:WARMUP_REQUESTS], spec.quantile)
            found[spec.name] = slow > threshold * np.where(canary, 1.0 + spec.max_increase, 1.0)
        else:
            found[spec.name] = traffic.taste < traffic.share + harm.class_share * canary
    return found


class Blocks:
    """Cumulative counts of all metrics, block by block."""

    def __init__(self, steps: Sequence[Step], names: Sequence[str]) -> None:
        self._steps = steps
        self._n = np.zeros((len(steps), 2, SEGMENTS))
        self._sums = {name: np.zeros((len(steps), 2, SEGMENTS)) for name in names}

    def add(self, place: int, segment: Whole, canary: Flags, outcome: Outcome) -> None:
        """Count a batch in a block."""
        for arm, mine in enumerate((canary, ~canary)):
            where = segment[mine]
            self._n[place, arm] += np.bincount(where, minlength=SEGMENTS)
            for name, events in outcome.items():
                self._sums[name][place, arm] += np.bincount(
                    where, weights=events[mine], minlength=SEGMENTS
                )

    def sample(self, name: str, upto: int, *, alone: bool) -> Sample:
        """Return a metric's counts in the blocks begun so far."""
        return Sample(
            tuple(
                Counts(
                    self._steps[place].weight / POINTS,
                    self._n[place, 0],
                    self._sums[name][place, 0],
                    self._n[place, 1],
                    self._sums[name][place, 1],
                )
                for place in range(upto)
            ),
            alone=alone,
        )


class Look(NamedTuple):
    """What was seen after a batch: the canary's requests so far, and which metrics are worse."""

    canary_requests: int
    worse: tuple[str, ...]


class World(NamedTuple):
    """What is simulated: the steps, whether callers are alike, and what the canary does worse.

    ``alone`` takes each request for a unit of evidence although callers stick: the mistake that
    the routing key as unit avoids.
    """

    steps: Sequence[Step]
    alike: bool = False
    harm: Harm = Harm()
    alone: bool = False


def watch(traffic: Traffic, world: World, policy: Policy, batch: int) -> Iterator[Look]:
    """Look after every batch, and say what the sequential comparison calls worse."""
    steps = world.steps
    blocks = Blocks(steps, [spec.name for spec in policy.metrics])
    requests, begin = 0, 0
    for place, step in enumerate(steps):
        canary = traffic.segment < step.weight * SEGMENTS // POINTS
        outcome = outcomes(traffic, canary, world.harm, policy)
        for start in range(begin, step.end, batch):
            part = slice(start, min(start + batch, step.end))
            cut = {name: events[part] for name, events in outcome.items()}
            blocks.add(place, traffic.segment[part], canary[part], cut)
            requests += int(canary[part].sum())
            worse = [
                spec.name
                for spec in policy.metrics
                if harmful(
                    blocks.sample(spec.name, place + 1, alone=world.alone),
                    spec,
                    policy.alpha_of(spec),
                    0.0 if spec.kind == "latency" else spec.max_increase,
                )
            ]
            yield Look(requests, tuple(worse))
        begin = step.end
