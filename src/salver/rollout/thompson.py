"""Thompson sampling: each arm gets traffic as it is likely to be the best, and never too little.

What is known of an arm is what its outcomes say inside blocks of constant weight: a block counts
as much of each arm as its least arm's weight, so that an arm which had more of a good hour is not
taken for a better one. Who is ahead decides the weights only; it is no evidence by itself.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from salver.core.errors import InvalidRequest
from salver.rollout.tally import POINTS

_DRAWS = 4_000
_WHOLE_PERCENT = 100


class Success(msgspec.Struct, frozen=True):
    """What is known of an arm: outcomes, their sum, and that of their squares."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float | None:
        """The mean outcome."""
        return self.total / self.count if self.count else None


class Split(msgspec.Struct, frozen=True):
    """Each arm's weight in basis points, and the chance with which it is the best."""

    weights: tuple[int, ...]
    best: tuple[float, ...]


def known(
    blocks: Sequence[tuple[Mapping[str, int], Mapping[str, Success]]], arms: Sequence[str]
) -> tuple[Success, ...]:
    """Return what blocks say of arms; each block is the arms' weights and outcomes."""
    found = dict.fromkeys(arms, Success())
    for weights, outcomes in blocks:
        least = min((weights[arm] for arm in arms), default=0)
        for arm in arms:
            own, part = outcomes.get(arm, Success()), least / weights[arm] if weights[arm] else 0.0
            before = found[arm]
            found[arm] = Success(
                before.count + part * own.count,
                before.total + part * own.total,
                before.squares + part * own.squares,
            )
    return tuple(found[arm] for arm in arms)


def thompson_split(
    arms: Sequence[Success], floor: int, rng: np.random.Generator, *, prefers_less: bool = False
) -> Split:
    """Return how likely each arm is the best, as weights of at least ``floor`` basis points.

    Outcomes that are all 0 or 1 are shares with an even prior; of others the means are taken, and
    an arm with fewer than two outcomes, of which nothing is known yet, keeps an even chance.
    Weights beyond the floor are whole percents, so that chance alone does not move callers.
    Raises ``InvalidRequest`` for counts or a floor that cannot be.
    """
    if any(not 0.0 <= arm.count < np.inf or not np.isfinite(arm.total) for arm in arms):
        raise InvalidRequest("each arm has a number of outcomes and their sum")
    if not arms or not 0 <= floor * len(arms) <= POINTS:
        raise InvalidRequest(f"{len(arms)} arms cannot each have {floor} of {POINTS} basis points")
    draws = _draws(arms, rng)
    leaders = draws.argmin(axis=1) if prefers_less else draws.argmax(axis=1)
    best = np.bincount(leaders, minlength=len(arms)) / _DRAWS
    free = POINTS - floor * len(arms)
    weights = [
        floor + int(free * share / _WHOLE_PERCENT) * _WHOLE_PERCENT for share in best.tolist()
    ]
    weights[int(np.argmax(best))] += POINTS - sum(weights)
    return Split(tuple(weights), tuple(best.tolist()))


def _draws(arms: Sequence[Success], rng: np.random.Generator) -> np.ndarray[tuple[int, int]]:
    """Return draws of each arm's mean from what is known of it."""
    size = (_DRAWS, len(arms))
    count = np.array([arm.count for arm in arms])
    total = np.array([arm.total for arm in arms])
    squares = np.array([arm.squares for arm in arms])
    if np.allclose(total, squares) and np.all((total >= 0) & (total <= count + 1e-9)):
        lost = np.maximum(count - total, 0.0)
        return rng.beta(1.0 + total, 1.0 + lost, size=size)
    if count.min() <= 1.0:
        return rng.random(size)
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 0.0) / (count - 1.0))
    return rng.normal(mean, np.maximum(spread, np.finfo(float).tiny), size=size)
