"""What was counted of one arm, and in one slice of time."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from salver.rollout.evidence import Block, Observed
from salver.rollout.tally import FEEDBACK_COLUMNS, POINTS, SEGMENTS, Floats, Layout, Table


class Counted(msgspec.Struct, frozen=True):
    """What one arm had in all measured blocks: its columns added up, and its latencies in bins.

    Sums of scores are those of equally many segments of either arm, see ``counted``.
    """

    columns: tuple[float, ...]
    bins: tuple[float, ...]


def counted(observed: Sequence[Observed]) -> tuple[Counted, Counted]:
    """Return what blocks have counted of the primary and of the canary.

    Means of few scores are spread otherwise than means of many, skewed where scores are, and the
    test would take that for a shift. So scores are added up over the ends of the ring alone, as
    many segments of the canary's as of the primary's. Raises ``IndexError`` for no blocks.
    """
    layout = observed[-1].block.primary
    return (
        _added([(each.primary, slice(-_ends(each.block), None)) for each in observed], layout),
        _added([(each.canary, slice(_ends(each.block))) for each in observed], layout),
    )


def _ends(block: Block) -> int:
    """Return how many segments at either end of the ring are wholly the one or the other arm's."""
    return max(1, min(block.weight, POINTS - block.weight) * SEGMENTS // POINTS)


def _added(arm: Sequence[tuple[Table, slice]], layout: Layout) -> Counted:
    columns = np.sum([table.rows.sum(axis=0) for table, _ in arm], axis=0)
    mean = slice(layout.first_mean, None)
    columns[mean] = np.sum([table.rows[end, mean].sum(axis=0) for table, end in arm], axis=0)
    bins = np.sum([table.bins for table, _ in arm], axis=0)
    return Counted(tuple(columns.tolist()), tuple(bins.tolist()))


def since(layout: Layout, now: Counted, before: Counted) -> Counted:
    """Return what was counted since."""
    columns = np.subtract(now.columns, before.columns)
    # Counts do not fall, but sums of what callers report and of scores may: of negative values.
    counts = np.ones(len(columns), dtype=bool)
    counts[layout.first_feedback + 1 : layout.first_mean : FEEDBACK_COLUMNS] = False
    counts[layout.first_mean + 2 :] = False
    columns[counts] = np.maximum(columns[counts], 0.0)
    bins = np.maximum(np.subtract(now.bins, before.bins), 0.0)
    return Counted(tuple(columns.tolist()), tuple(bins.tolist()))


def levelled(layout: Layout, arms: tuple[Counted, Counted], seed: int) -> tuple[Counted, Counted]:
    """Return both arms with equally many predictions and scores, drawn from what each has.

    The test looks at how values are spread. The share of what is rare is 0 in most slices of an arm
    with little traffic and steady in the other's, which would be a shift where there is none.
    """
    rng = np.random.default_rng(seed)
    rows = [np.array(arm.columns) for arm in arms]
    for first, end in pairwise((layout.first_label, layout.first_score, layout.first_feedback)):
        fewest = int(min(row[first:end].sum() for row in rows))
        if fewest:
            for row in rows:
                have = row[first:end].astype(np.int64)
                row[first:end] = rng.multivariate_hypergeometric(have, fewest)
    primary, canary = (
        Counted(tuple(row.tolist()), arm.bins) for row, arm in zip(rows, arms, strict=True)
    )
    return primary, canary


def score_mean(layout: Layout, columns: Floats) -> float | None:
    """Return the mean of an arm's scores; None where none was added up."""
    count = float(columns[layout.first_mean])
    return float(columns[layout.first_mean + 2]) / count if count else None
