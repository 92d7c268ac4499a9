"""Always-valid comparison of two arms by betting on the coin that assigned their callers.

Take the hypothesis that the canary changes a metric by exactly ``change``. Undo that change in the
canary's counts, and what is left would have been the same whichever arm a segment had met: only
the assignment was random, with the known probability ``w``. Scores ``s`` of the segments (count
minus what their requests let expect) then say nothing about the arm, and for every tilt ``t``

    E(t) = exp(t * sum of s over the canary's segments) / product over all (1 - w + w exp(t s))

has the mean 1 over the draws of the assignment, whatever trends, bursts, heavy tails or heavy
callers made the scores. A mixture over tilts that exceeds ``1 / alpha`` refutes the hypothesis.
A single segment can multiply it by ``1 / w`` at most: one caller is one piece of evidence.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from salver.rollout.tally import Floats

_CENTRE = 0.3
_SPREAD = 0.8
_EVEN_SHARE = 0.4
_MAX_EXPONENT = 300.0
_CHUNK = 8_000
_SURPRISE = 3.0
_WIDENINGS = 40
_HALVINGS = 8
_SMALLEST_STEP = 1e-12


class Tilts(NamedTuple):
    """The tilts of the mixture and how much of the stake each has; fixed before any data."""

    values: Floats
    logs: Floats


def _tilts(lowest: float, highest: float, count: int) -> Tilts:
    values = np.geomspace(lowest, highest, count)
    bell = np.exp(-np.square(np.log(values / _CENTRE) / _SPREAD) / 2)
    shares = (1 - _EVEN_SHARE) * bell / bell.sum() + _EVEN_SHARE / count
    return Tilts(values, np.log(shares))


TILTS = _tilts(0.02, 4.0, 16)


class Counts(NamedTuple):
    """One metric in one block: per segment and arm the number of units and the sum over them.

    ``canary_x`` and ``primary_x`` are the sums of a covariate over the same units, known before
    they were assigned; in all blocks of a sample or in none.
    """

    weight: float
    canary_n: Floats
    canary_sum: Floats
    primary_n: Floats
    primary_sum: Floats
    canary_x: Floats | None = None
    primary_x: Floats | None = None


class Sample(msgspec.Struct, frozen=True):
    """One metric over all blocks.

    ``events`` says that sums count events (each unit 0 or 1); otherwise they add up values whose
    standard deviation is ``scale``. With ``ratio`` a change is relative, else a difference.
    ``shrink`` gives heavy segments less say when their callers differ (more power, never less
    validity); without it every unit has the same say. ``alone`` says that no request had a routing
    key: each was assigned by a draw of its own, and is a unit of evidence by itself. Blocks with a
    covariate hold values whose differences are compared, never events or ratios.
    """

    blocks: tuple[Counts, ...]
    events: bool = True
    ratio: bool = False
    scale: float = 1.0
    shrink: bool = True
    alone: bool = False

    @property
    def canary_n(self) -> float:
        """Units of the canary."""
        return float(sum(block.canary_n.sum() for block in self.blocks))

    @property
    def primary_n(self) -> float:
        """Units of the primary."""
        return float(sum(block.primary_n.sum() for block in self.blocks))


def log_evidence(sample: Sample, change: float, sign: int) -> float:
    """Return the log of the evidence that the canary's change is more than ``change``.

    With ``sign`` -1, that it is less. Where the sample points the other way the evidence is left
    at nothing, minus infinity, which is less than it has and so as valid.
    """
    seen = estimate(sample)
    if math.isnan(seen) or sign * (seen - change) <= 0.0:
        return -math.inf
    usable = [block for block in sample.blocks if _usable(block)]
    groups = [_prepared(sample, change, blocks) for blocks in _groups(sample, usable)]
    tilts = sign * TILTS.values / (1.0 if sample.events else sample.scale)
    shift = change if sample.events and not sample.ratio else 0.0
    logs = TILTS.logs.copy()
    for group in groups:
        parts = _chunks(len(group.say), tilts)
        logs += tilts * group.total - np.concatenate([_expected(group, part) for part in parts])
        if shift:
            parts = _chunks(int(np.count_nonzero(np.sum(group.changed, axis=0))), tilts)
            logs -= np.concatenate([_compensation(group, part, shift) for part in parts])
    best = float(logs.max())
    return best + math.log(float(np.exp(logs - best).sum()))


class _Group(NamedTuple):
    """Units that were assigned together: in how many copies, with what say, and their scores.

    ``levels`` are the units' scores by the weight at which they were assigned, ascending, and
    ``changed`` for each of them how many of the canary's requests may have been changed.
    """

    copies: Floats
    say: Floats
    total: float
    levels: list[tuple[float, Floats]]
    changed: list[Floats]


def _usable(block: Counts) -> bool:
    both = float(block.canary_n.sum()), float(block.primary_n.sum())
    return 0.0 < block.weight < 1.0 and min(both) > 0.0


def _groups(sample: Sample, blocks: list[Counts]) -> list[list[Counts]]:
    """Return blocks whose units are the same: all of them, or each block's requests."""
    if sample.alone and sample.events:
        return [[block] for block in blocks]
    return [blocks] if blocks else []


def _prepared(sample: Sample, change: float, blocks: list[Counts]) -> _Group:
    if sample.alone and sample.events:
        return _alone(sample, change, blocks[0])
    undone = explained([_undo(sample, change, block) for block in blocks])
    say = _say(sample, undone) if sample.shrink else np.ones_like(blocks[0].canary_n)
    total, levels = _scores(sample, undone, say, say)
    changed = [
        np.sum([block.canary_n for block in undone if block.weight == weight], axis=0)
        for weight, _ in levels
    ]
    return _Group(np.ones_like(say), say, total, levels, changed)


def _alone(sample: Sample, change: float, block: Counts) -> _Group:
    """Return a block whose units are single requests.

    An event that the change added was none before, and one that it took was one.
    """
    copies, units = _requests(block)
    say = np.ones_like(copies)
    total, levels = _scores(sample, [_undo(sample, change, units)], copies, say)
    before = units.canary_n * (units.canary_sum if change < 0.0 else 1.0 - units.canary_sum)
    return _Group(copies, say, total, levels, [float(block.canary_n.sum()) * before])


def _requests(block: Counts) -> tuple[Floats, Counts]:
    """Return single requests in place of segments: four sorts, each in many copies."""
    canary, primary = float(block.canary_sum.sum()), float(block.primary_sum.sum())
    others = float(block.canary_n.sum()) - canary, float(block.primary_n.sum()) - primary
    of_canary, event = np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0])
    one = Counts(
        block.weight, of_canary, of_canary * event, 1.0 - of_canary, (1.0 - of_canary) * event
    )
    return np.array([canary, others[0], primary, others[1]]), one


def _undo(sample: Sample, change: float, block: Counts) -> Counts:
    """Return the block as it would be had the canary changed nothing.

    A ratio shrinks the larger side: expected counts then have no more spread than real ones. For
    differences of events nothing is undone, see ``_compensation``.
    """
    if sample.ratio and change >= 0.0:
        return block._replace(canary_sum=block.canary_sum / (1.0 + change))
    if sample.ratio:
        return block._replace(primary_sum=block.primary_sum * (1.0 + change))
    if sample.events:
        return block
    return block._replace(canary_sum=block.canary_sum - change * block.canary_n)


def explained(blocks: Sequence[Counts]) -> list[Counts]:
    """Return blocks less what their covariate explains, and as they are where there is none.

    The slope is that of both arms together. Of counts from which a hypothesis has taken its change
    back it follows without the assignment, so it cannot spoil the bet.
    """
    line = regression(blocks)
    if line is None:
        return list(blocks)
    slope, centre = line
    found = []
    for block in blocks:
        assert block.canary_x is not None
        assert block.primary_x is not None
        canary = block.canary_x - centre * block.canary_n
        primary = block.primary_x - centre * block.primary_n
        found.append(
            block._replace(
                canary_sum=block.canary_sum - slope * canary,
                primary_sum=block.primary_sum - slope * primary,
            )
        )
    return found


def regression(blocks: Sequence[Counts]) -> tuple[float, float] | None:
    """Return slope and centre of the line from covariate to value; None without a covariate.

    By least squares over segments, each against its block's own mean.
    """
    covariates = [x for x in map(_covariate, blocks) if x is not None]
    if not covariates:
        return None
    units = [b.canary_n + b.primary_n for b in blocks]
    count = float(sum(n.sum() for n in units))
    if not count:
        return None
    centre = float(sum(x.sum() for x in covariates)) / count
    value, known = np.zeros_like(units[0]), np.zeros_like(units[0])
    for block, n, x in zip(blocks, units, covariates, strict=True):
        sums = block.canary_sum + block.primary_sum
        value += sums - float(sums.sum() / max(n.sum(), 1.0)) * n
        known += x - float(x.sum() / max(n.sum(), 1.0)) * n
    spread = float((known**2).sum())
    return (float((value * known).sum()) / spread if spread > 0.0 else 0.0), centre


def _covariate(block: Counts) -> Floats | None:
    if block.canary_x is None or block.primary_x is None:
        return None
    return block.canary_x + block.primary_x


def _say(sample: Sample, blocks: list[Counts]) -> Floats:
    """Return the say of a unit by segment: ``1 / (1 + likeness * (units - 1))``.

    Likeness is the correlation of units of one segment, estimated from both arms together. It
    follows from counts and not from the assignment, so it cannot spoil the bet.
    """
    units = np.sum([block.canary_n + block.primary_n for block in blocks], axis=0)
    surplus = np.zeros_like(units)
    spread = np.zeros_like(units)
    for block in blocks:
        n = block.canary_n + block.primary_n
        sums = block.canary_sum + block.primary_sum
        rate = float(sums.sum() / n.sum())
        surplus += sums - rate * n
        variance = max(rate * (1.0 - rate), 0.0) if sample.events else sample.scale**2
        spread += variance * n
    pairs = float((spread * np.maximum(units - 1.0, 0.0)).sum())
    if pairs <= 0.0:
        return np.ones_like(units)
    likeness = float((surplus**2).sum() - spread.sum()) / pairs
    return np.asarray(1.0 / (1.0 + min(max(likeness, 0.0), 1.0) * np.maximum(units - 1.0, 0.0)))


def _scores(
    sample: Sample, blocks: list[Counts], counted: Floats, say: Floats
) -> tuple[float, list[tuple[float, Floats]]]:
    """Return the canary's total score, and the units' scores added up by weight, ascending.

    A score far outside what most segments have is cut: a caller who fails always is one
    surprise, and would else drown out many small ones. Cut by counts alone, it stays a fair bet.
    """
    total = 0.0
    levels: dict[float, Floats] = {}
    for block in blocks:
        n = block.canary_n + block.primary_n
        sums = block.canary_sum + block.primary_sum
        rate = float((counted * sums).sum() / (counted * n).sum())
        mine = block.canary_sum - rate * block.canary_n
        score = sums - rate * n
        if sample.shrink and not sample.alone:
            variance = max(rate * (1.0 - rate), 0.0) if sample.events else sample.scale**2
            one = 1.0 if sample.events else sample.scale
            limit = _SURPRISE * np.maximum(one, np.sqrt(variance * n / say))
            cut = limit / np.maximum(np.abs(score), limit)
            mine, score = cut * mine, cut * score
        total += float((counted * mine).sum())
        score = say * score
        levels[block.weight] = levels[block.weight] + score if block.weight in levels else score
    return total, sorted(levels.items(), key=lambda level: level[0])


def _chunks(units: int, tilts: Floats) -> list[Floats]:
    """Return the tilts in parts whose arrays stay in the cache and need no fresh pages."""
    size = max(_CHUNK // max(units, 1), 1)
    return [tilts[start : start + size] for start in range(0, len(tilts), size)]


def _expected(group: _Group, tilts: Floats) -> Floats:
    """Return per tilt the log of the mean of ``exp(tilt * canary's score)`` over assignments.

    A segment at ring position ``u`` is the canary's in every block whose weight is above ``u``.
    """
    column = tilts[:, None]
    exponents: list[tuple[float, Floats]] = []
    weight, score = group.levels[-1]
    tail = column * score
    peak = tail
    for below, lower in reversed(group.levels[:-1]):
        exponents.append((weight - below, tail))
        tail = tail + column * lower
        peak = np.maximum(peak, tail)
        weight = below
    exponents.append((weight, tail))
    mean = np.full_like(peak, 1.0 - group.levels[-1][0])
    if peak.max() <= _MAX_EXPONENT:
        for share, exponent in exponents:
            mean += share * np.exp(exponent)
        return np.asarray(np.log(mean) @ group.copies)
    excess = np.maximum(peak - _MAX_EXPONENT, 0.0)
    for share, exponent in exponents:
        mean += share * np.exp(exponent - excess)
    return np.asarray((excess + np.log(mean)) @ group.copies)


def _compensation(group: _Group, tilts: Floats, change: float) -> Floats:
    """Return per tilt the log of what events that only the canary has, or lacks, do to the bet.

    Each of its requests has one more, or one less, with the probability ``|change|``. That moves
    the canary's score, and also what was expected of its segment.
    """
    held = np.flatnonzero(np.sum(group.changed, axis=0))
    column = tilts[:, None]
    weights = [weight for weight, _ in group.levels]
    scores = np.array([score[held] for _, score in group.levels])
    exponents = np.cumsum(scores[::-1], axis=0)[::-1, None] * column
    excess = np.maximum(exponents.max(axis=0) - _MAX_EXPONENT, 0.0)
    parts = np.diff([0.0, *weights])[:, None, None] * np.exp(exponents - excess)
    mine = np.cumsum(parts, axis=0)
    everything = mine[-1] + (1.0 - weights[-1]) * np.exp(-excess)
    step = math.copysign(1.0, change) * column * group.say[held]
    step = np.clip(step, -_MAX_EXPONENT, _MAX_EXPONENT)
    log = np.zeros(len(tilts))
    for canary, changed in zip(mine, group.changed, strict=True):
        others = everything - canary
        moved = np.expm1(step) * others / (canary * np.exp(step) + others)
        log += np.log1p(abs(change) * moved) @ changed[held]
    return log


def bound(sample: Sample, sign: int, alpha: float) -> float:
    """Return the end of the always-valid interval for the change: the lower for ``sign`` 1.

    Every change beyond it is refuted at ``alpha``, at whatever time one looks. The end of the
    possible changes where nothing is refuted: -1 and 1 for shares, infinities for values.
    """
    needed = -math.log(alpha)
    start = estimate(sample)
    if not math.isfinite(start):
        start = 0.0
    limit = _limit(sample, sign)
    step = _first_step(sample)
    kept, refuted = start, start - sign * step
    for _ in range(_WIDENINGS):
        if sign * (refuted - limit) <= 0.0:
            return limit
        if log_evidence(sample, refuted, sign) >= needed:
            break
        kept, step = refuted, 2.0 * step
        refuted = start - sign * step
    else:
        return limit
    for _ in range(_HALVINGS):
        middle = (kept + refuted) / 2.0
        if log_evidence(sample, middle, sign) >= needed:
            refuted = middle
        else:
            kept = middle
    return refuted


def estimate(sample: Sample) -> float:
    """Return the observed change within blocks; NaN where an arm has nothing."""
    expected = observed = units = 0.0
    for block in explained(sample.blocks):
        canary_n, primary_n = float(block.canary_n.sum()), float(block.primary_n.sum())
        if canary_n and primary_n:
            expected += float(block.primary_sum.sum()) / primary_n * canary_n
            observed += float(block.canary_sum.sum())
            units += canary_n
    if not units or (sample.ratio and not expected):
        return math.nan
    return observed / expected - 1.0 if sample.ratio else (observed - expected) / units


def _limit(sample: Sample, sign: int) -> float:
    if sample.ratio:
        return -1.0 if sign > 0 else math.inf
    return -float(sign) if sample.events else -sign * math.inf


def _first_step(sample: Sample) -> float:
    """Return about one standard error, where the search for a bound begins."""
    units = max(sample.canary_n, 1.0)
    total = sum(float(block.canary_sum.sum() + block.primary_sum.sum()) for block in sample.blocks)
    level = total / max(sample.canary_n + sample.primary_n, 1.0)
    spread = max(level * (1.0 - level), 1.0 / units) if sample.events else sample.scale**2
    step = math.sqrt(spread / units)
    return max(step / abs(level) if sample.ratio and level else step, _SMALLEST_STEP)
