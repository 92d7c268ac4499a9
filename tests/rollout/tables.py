"""Tables of counts made up for tests."""

import numpy as np

from salver.rollout.evidence import Block, Observed
from salver.rollout.tally import LATENCY_BINS, SEGMENTS, Layout, Table, Tally

LAYOUT = Layout(
    latencies=("p95",),
    thresholds_s=(0.05,),
    labels=("a", "b"),
    score_edges=(0.25, 0.5, 0.75),
    feedback=("bought",),
)
CANARY_LAYOUT = Layout(
    latencies=("p95",),
    thresholds_s=(0.0515,),
    labels=("a", "b"),
    score_edges=(0.25, 0.5, 0.75),
    feedback=("bought",),
)


def block(epoch: int = 1, weight: int = 500, *, warmup: bool = False) -> Block:
    """Return a block of that weight."""
    return Block(epoch, weight, CANARY_LAYOUT, LAYOUT, warmup)


def observed(
    rng: np.random.Generator,
    requests: int,
    harm: dict[str, float] | None = None,
    *,
    where: Block | None = None,
) -> Observed:
    """Return a block of independent requests, counted as gateways count them.

    ``harm`` is what the canary has more of: ``errors`` and ``labels`` as shares, ``latency`` as a
    factor less 1, ``scores`` and ``feedback`` as shifts.
    """
    more = harm or {}
    place = where or block()
    tallies = Tally(place.canary), Tally(place.primary)
    canary_ends = place.weight // 5
    for segment in rng.integers(0, SEGMENTS, requests):
        canary = bool(segment < canary_ends)
        tally = tallies[0] if canary else tallies[1]
        if rng.random() < 0.01 + more.get("errors", 0.0) * canary:
            tally.failed(int(segment))
            continue
        factor = 1.0 + more.get("latency", 0.0) * canary
        tally.answered(int(segment), 0.02 * factor * float(rng.lognormal(0.0, 0.6)))
        tally.predicted(int(segment), int(rng.random() > 0.3 + more.get("labels", 0.0) * canary))
        tally.scored(int(segment), float(rng.random()) + more.get("scores", 0.0) * canary)
        value = float(rng.normal(10.0 + more.get("feedback", 0.0) * canary, 2.0))
        tally.rated(int(segment), 0, value)
    return Observed(place, tallies[0].table(), tallies[1].table())


def nothing(where: Block) -> Observed:
    """Return a block in which nothing was counted."""
    empty = Table(np.zeros((SEGMENTS, where.canary.width)), np.zeros(LATENCY_BINS))
    return Observed(where, empty, empty)
