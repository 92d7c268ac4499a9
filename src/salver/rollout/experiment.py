"""Experiments: the pre-period taken into account, and a split that follows success."""

import numpy as np

from salver.core.errors import InvalidRequest
from salver.rollout.betting import Counts, Sample
from salver.rollout.tally import POINTS, Floats

_DRAWS = 4_000


def adjusted(sample: Sample, before_n: Floats, before_sum: Floats) -> Sample:
    """Return a sample less what its callers' pre-period lets expect, which narrows intervals.

    ``before_n`` and ``before_sum`` are each segment's units and sum before the experiment, in
    both arms together. The slope is that of both arms together, so the arms stay comparable and
    the interval as valid as without. Differences only; raises ``InvalidRequest`` for a ratio.
    """
    if sample.ratio:
        raise InvalidRequest("a ratio cannot be adjusted by a pre-period; ask for a difference")
    known = before_n > 0.0
    usual = np.divide(before_sum, before_n, out=np.zeros_like(before_sum), where=known)
    n = np.sum([block.canary_n + block.primary_n for block in sample.blocks], axis=0)
    sums = np.sum([block.canary_sum + block.primary_sum for block in sample.blocks], axis=0)
    weight = n * known
    if not weight.any():
        return sample
    usual = np.where(known, usual - float((weight * usual).sum() / weight.sum()), 0.0)
    spread = float((weight * usual**2).sum())
    slope = float((known * sums * usual).sum()) / spread if spread > 0.0 else 0.0
    expected = slope * usual
    scale = sample.scale
    if sample.events:
        rate = float(sums.sum() / n.sum())
        scale = float(np.sqrt(max(rate * (1.0 - rate), 1.0 / n.sum())))
    blocks = tuple(_less(block, expected) for block in sample.blocks)
    return Sample(blocks, events=False, scale=scale, shrink=sample.shrink)


def _less(block: Counts, expected: Floats) -> Counts:
    return block._replace(
        canary_sum=block.canary_sum - expected * block.canary_n,
        primary_sum=block.primary_sum - expected * block.primary_n,
    )


def thompson_split(
    successes: tuple[int, ...], trials: tuple[int, ...], floor: int, rng: np.random.Generator
) -> tuple[int, ...]:
    """Return each arm's weight in basis points: how likely it is the best, at least ``floor``.

    Rates have an even prior. Every arm keeps the floor, so that one with a bad start is still
    learned about. Counts must be those of the newest block when weights follow this split.
    Raises ``InvalidRequest`` for counts or a floor that cannot be.
    """
    arms = len(trials)
    if arms != len(successes) or any(
        not 0 <= won <= tried for won, tried in zip(successes, trials, strict=False)
    ):
        raise InvalidRequest("each arm has from 0 to as many successes as trials")
    if arms < 1 or not 0 <= floor * arms <= POINTS:
        raise InvalidRequest(f"{arms} arms cannot each have {floor} of {POINTS} basis points")
    won = np.array(successes, dtype=np.float64)
    lost = np.array(trials, dtype=np.float64) - won
    best = rng.beta(1.0 + won, 1.0 + lost, size=(_DRAWS, arms)).argmax(axis=1)
    free = POINTS - floor * arms
    weights = [floor + int(free * share) for share in np.bincount(best, minlength=arms) / _DRAWS]
    weights[int(np.argmax(weights))] += POINTS - sum(weights)
    return tuple(weights)
