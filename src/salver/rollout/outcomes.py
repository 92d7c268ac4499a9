"""What an experiment says of its arms: outcomes of each beside those of the first.

The intervals hold at all times together, for all arms together, so one may look as often as one
likes (see ``betting``). That also holds where the weights follow success: single requests are
compared inside blocks of constant weight, each by a draw of its own; callers with a routing key,
who meet the same arm for long, only where they have met it from the beginning, in the floors.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from salver.rollout.betting import Counts, Sample, bound, estimate, regression
from salver.rollout.tally import SEGMENTS, Floats, segment_of

BETTER, WORSE, UNDECIDED, NOTHING = "higher", "lower", "no difference shown", "nothing reported"
NO_VERDICT = "no verdict"
"""Where arms did not get the traffic of their weights, nothing may be said of them."""
_LEAST_SPREAD = 1e-6


class Cell(msgspec.Struct, frozen=True):
    """Outcomes of one arm in one weight epoch at one place, -1 where chance did not decide."""

    arm: str
    epoch: int
    place: int
    count: int
    total: float
    squares: float


class Design(msgspec.Struct, frozen=True):
    """How callers came to the arms, of which the first is the primary one.

    ``blocks`` are the weights of the arms, in basis points, by the weight epochs in which all of
    them could answer. ``sticky`` tells that callers had a routing key, so that chance assigned
    whole callers and not single requests. With a ``floor`` the weights followed success; each arm
    then has that many places of its own at the lower end of the ring, in the order of ``owners``.
    """

    arms: tuple[str, ...]
    blocks: Mapping[int, tuple[int, ...]]
    sticky: bool
    floor: int = 0

    @property
    def owners(self) -> tuple[str, ...]:
        """The arms in the order in which they lie on the ring."""
        return (*self.arms[1:], self.arms[0])


class ArmReport(msgspec.Struct, frozen=True):
    """One arm. ``estimate``, ``low`` and ``high`` are its mean less the first arm's.

    ``compared`` are the outcomes that ``mean`` and these are about.
    """

    arm: str
    outcomes: int
    compared: int
    mean: float | None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""


def report(
    design: Design,
    cells: Sequence[Cell],
    alpha: float,
    covariate: Mapping[int, float] | None = None,
) -> list[ArmReport]:
    """Compare arms with the first of them.

    ``alpha`` is the chance that any interval ever misses. ``covariate`` is what was known of the
    callers at a place before the experiment, on average: what it explains is taken out. It is left
    aside where callers do not stick, for then nobody is at a place.
    """
    drawn, used, blocks = _usable(design, cells)
    side = alpha / (2 * max(1, len(design.arms) - 1))
    plain = [_alone(design, index, drawn, used, blocks) for index in range(len(design.arms))]
    found = [
        _compared(arm, sample, side)
        for arm, sample in zip(plain[1:], samples(design, cells, covariate), strict=True)
    ]
    return [plain[0], *found]


def samples(
    design: Design, cells: Sequence[Cell], covariate: Mapping[int, float] | None = None
) -> list[Sample]:
    """Return what each other arm is compared with the first by; see ``report``."""
    _, used, blocks = _usable(design, cells)
    usual = covariate if design.sticky and covariate else None
    return [_sample(design, index, used, blocks, usual) for index in range(1, len(design.arms))]


def _usable(
    design: Design, cells: Sequence[Cell]
) -> tuple[list[Cell], list[Cell], Mapping[int, tuple[int, ...]]]:
    """Return what chance assigned, what of it may be compared, and by which weights."""
    drawn = [cell for cell in cells if cell.place >= 0 and cell.epoch in design.blocks]
    events = all(cell.total == cell.squares for cell in drawn)
    if design.floor <= 0 or (events and not design.sticky):
        return drawn, drawn, design.blocks
    used = [cell for cell in drawn if _owns(design, cell)]
    return drawn, used, dict.fromkeys(design.blocks, (1,) * len(design.arms))


def _owns(design: Design, cell: Cell) -> bool:
    """Tell whether a cell is in the floor of its own arm."""
    owner = cell.place // design.floor
    return owner < len(design.arms) and design.owners[owner] == cell.arm


def _alone(
    design: Design,
    index: int,
    drawn: Sequence[Cell],
    used: Sequence[Cell],
    blocks: Mapping[int, tuple[int, ...]],
) -> ArmReport:
    """Return an arm's own numbers; its mean is over equal parts of all blocks' traffic."""
    name = design.arms[index]
    own = [cell for cell in used if cell.arm == name]
    parts = {epoch: min(weights) / weights[index] for epoch, weights in blocks.items()}
    count = sum(parts[cell.epoch] * cell.count for cell in own)
    mean = sum(parts[cell.epoch] * cell.total for cell in own) / count if count else None
    outcomes = sum(cell.count for cell in drawn if cell.arm == name)
    return ArmReport(name, outcomes, sum(cell.count for cell in own), mean)


def _compared(plain: ArmReport, sample: Sample, side: float) -> ArmReport:
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
    design: Design,
    index: int,
    cells: Sequence[Cell],
    blocks: Mapping[int, tuple[int, ...]],
    usual: Mapping[int, float] | None,
) -> Sample:
    """Return the two arms' outcomes; blocks whose weights are all the same are one."""
    first, other = design.arms[0], design.arms[index]
    both = [cell for cell in cells if cell.arm in (first, other)]
    apart = len(set(blocks.values())) > 1
    groups: dict[int, list[Cell]] = {}
    for cell in both:
        groups.setdefault(cell.epoch if apart else 0, []).append(cell)
    counts = []
    for own in groups.values():
        weights = blocks[own[0].epoch]
        share = weights[index] / (weights[0] + weights[index])
        mine, base = ([c for c in own if c.arm == arm] for arm in (other, first))
        counts.append(_counts(share, mine, base, usual))
    events = usual is None and all(cell.total == cell.squares for cell in both)
    scale = 1.0 if events else _scale(both, counts, usual)
    return Sample(tuple(counts), events=events, scale=scale, alone=not design.sticky)


def _counts(
    share: float, mine: Sequence[Cell], first: Sequence[Cell], usual: Mapping[int, float] | None
) -> Counts:
    plain = Counts(share, *_columns(mine), *_columns(first))
    if usual is None:
        return plain
    return plain._replace(canary_x=_known(mine, usual), primary_x=_known(first, usual))


def _columns(cells: Iterable[Cell]) -> tuple[Floats, Floats]:
    counts, totals = np.zeros(SEGMENTS), np.zeros(SEGMENTS)
    for cell in cells:
        segment = segment_of(cell.place)
        counts[segment] += cell.count
        totals[segment] += cell.total
    return counts, totals


def _known(cells: Iterable[Cell], usual: Mapping[int, float]) -> Floats:
    """Return the covariate's sums; callers of whom nothing was known are taken for usual ones."""
    centre, sums = float(np.mean(list(usual.values()))), np.zeros(SEGMENTS)
    for cell in cells:
        sums[segment_of(cell.place)] += cell.count * usual.get(cell.place, centre)
    return sums


def _scale(
    cells: Sequence[Cell], counts: Sequence[Counts], usual: Mapping[int, float] | None
) -> float:
    """Return the standard deviation of an outcome, less what the covariate explains."""
    count = sum(cell.count for cell in cells)
    if not count:
        return 1.0
    total, squares = sum(cell.total for cell in cells), sum(cell.squares for cell in cells)
    spread = squares / count - (total / count) ** 2
    line = regression(counts)
    if usual is not None and line is not None:
        slope, centre = line
        known = sum(c.count * (usual.get(c.place, centre) - centre) ** 2 for c in cells) / count
        spread = max(spread - slope**2 * known, _LEAST_SPREAD * spread)
    return math.sqrt(spread) if spread > 0 else 1.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
