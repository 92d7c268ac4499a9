"""Equal versions behind a cache: arms remember unlike parts of requests that have no keys."""

from typing import NamedTuple

import numpy as np

from salver.rollout.evidence import Block, Observed
from salver.rollout.metrics.base import Question, events, harmful
from salver.rollout.policy import MetricSpec
from salver.rollout.tally import (
    ERRORS,
    LATENCY_BINS,
    POINTS,
    REMEMBERED,
    REQUESTS,
    SEGMENTS,
    Layout,
    Table,
    ran,
)

SPEC = MetricSpec("error_rate", "error_rate", 0.0)
ALPHA = 0.05
LOOKS, BATCH = 40, 500


class Memory(NamedTuple):
    """What part of its requests each arm remembers, and what part of the others fails.

    ``by_weight`` takes the block's weight for the canary's chance in what ran: the mistake that
    the share that ran avoids.
    """

    weight: int = 500
    canary: float = 0.0
    primary: float = 0.9
    failing: float = 0.3
    by_weight: bool = False


def false_alarms(runs: int, memory: Memory, seed: int) -> float:
    """Return the part of rollouts in which the canary is ever called worse, without a margin."""
    return sum(_alarm(memory, np.random.default_rng((seed, run))) for run in range(runs)) / runs


def _alarm(memory: Memory, rng: np.random.Generator) -> bool:
    layout = Layout()
    block = Block(1, memory.weight, layout, layout)
    canary, primary = (
        Table(np.zeros((SEGMENTS, layout.width)), np.zeros(LATENCY_BINS)) for _ in range(2)
    )
    for _ in range(LOOKS):
        mine = int(rng.binomial(BATCH, memory.weight / POINTS))
        _count(canary, mine, memory.canary, memory.failing, rng)
        _count(primary, BATCH - mine, memory.primary, memory.failing, rng)
        question = Question([Observed(block, canary, primary)], SPEC, ALPHA)
        sample = events(
            question,
            lambda _, rows: ran(rows),
            lambda _, rows: rows[:, ERRORS],
            of_all=memory.by_weight,
        )
        if harmful(sample, SPEC, ALPHA, 0.0):
            return True
    return False


def _count(
    table: Table, requests: int, remembered: float, failing: float, rng: np.random.Generator
) -> None:
    hits = int(rng.binomial(requests, remembered))
    row = table.rows[0]
    row[REQUESTS] += requests
    row[REMEMBERED] += hits
    row[ERRORS] += rng.binomial(requests - hits, failing)
