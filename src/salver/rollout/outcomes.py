"""What an experiment says of its arms: outcomes of each beside those of the first.

The intervals hold at all times together, for all arms together, so one may look as often as one
likes and stop when one likes (see ``betting``).
"""

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from salver.rollout.betting import Counts, Sample, bound, estimate
from salver.rollout.tally import SEGMENTS, Floats, segment_of

BETTER, WORSE, UNDECIDED, NOTHING = "higher", "lower", "no difference shown", "nothing reported"


class Cell(msgspec.Struct, frozen=True):
    """Outcomes of one arm in one weight epoch at one place, -1 where chance did not decide."""

    arm: str
    epoch: int
    place: int
    count: int
    total: float
    squares: float


class ArmReport(msgspec.Struct, frozen=True):
    """One arm. ``estimate``, ``low`` and ``high`` are its mean less the first arm's."""

    arm: str
    weight: int
    outcomes: int
    mean: float | None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""


def report(
    arms: Sequence[tuple[str, int]], cells: Sequence[Cell], alpha: float, *, sticky: bool
) -> list[ArmReport]:
    """Compare arms (name and weight in basis points) with the first of them.

    ``alpha`` is the chance that any interval ever misses. ``sticky`` tells that callers had a
    routing key, so that chance assigned whole callers and not single requests.
    """
    used = [cell for cell in cells if cell.place >= 0]
    first, weight = arms[0]
    reports = [_alone(first, weight, used)]
    for name, own in arms[1:]:
        sample = _sample((first, weight), (name, own), used, alone=not sticky)
        reports.append(_compared(name, own, used, sample, alpha / (2 * (len(arms) - 1))))
    return reports


def _alone(name: str, weight: int, cells: Iterable[Cell]) -> ArmReport:
    own = [cell for cell in cells if cell.arm == name]
    count = sum(cell.count for cell in own)
    mean = sum(cell.total for cell in own) / count if count else None
    return ArmReport(name, weight, count, mean)


def _compared(
    name: str, weight: int, cells: Sequence[Cell], sample: Sample, side: float
) -> ArmReport:
    plain = _alone(name, weight, cells)
    if not sample.canary_n or not sample.primary_n:
        return msgspec.structs.replace(plain, verdict=NOTHING)
    low, high = bound(sample, 1, side), bound(sample, -1, side)
    verdict = BETTER if low > 0 else WORSE if high < 0 else UNDECIDED
    return msgspec.structs.replace(
        plain,
        estimate=_finite(estimate(sample)),
        low=_finite(low),
        high=_finite(high),
        verdict=verdict,
    )


def _sample(
    first: tuple[str, int], other: tuple[str, int], cells: Sequence[Cell], *, alone: bool
) -> Sample:
    epochs = sorted({cell.epoch for cell in cells})
    blocks = []
    for epoch in epochs:
        own = _columns(cell for cell in cells if (cell.arm, cell.epoch) == (other[0], epoch))
        base = _columns(cell for cell in cells if (cell.arm, cell.epoch) == (first[0], epoch))
        blocks.append(Counts(other[1] / (first[1] + other[1]), *own, *base))
    both = [cell for cell in cells if cell.arm in (first[0], other[0])]
    count = sum(cell.count for cell in both)
    total, squares = sum(cell.total for cell in both), sum(cell.squares for cell in both)
    events = all(cell.total == cell.squares for cell in both)
    spread = squares / count - (total / count) ** 2 if count else 0.0
    scale = math.sqrt(spread) if spread > 0 else 1.0
    return Sample(tuple(blocks), events=events, scale=1.0 if events else scale, alone=alone)


def _columns(cells: Iterable[Cell]) -> tuple[Floats, Floats]:
    counts, totals = np.zeros(SEGMENTS), np.zeros(SEGMENTS)
    for cell in cells:
        segment = segment_of(cell.place)
        counts[segment] += cell.count
        totals[segment] += cell.total
    return counts, totals


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
