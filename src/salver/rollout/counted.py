"""What was counted of one arm, and in one slice of time."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from salver.rollout.tally import FEEDBACK_COLUMNS, Layout, Table


class Counted(msgspec.Struct, frozen=True):
    """What one arm had in all measured blocks: its columns added up, and its latencies in bins."""

    columns: tuple[float, ...]
    bins: tuple[float, ...]


def counted(tables: Sequence[Table]) -> Counted:
    """Return what several blocks have counted of one arm."""
    columns = np.sum([table.rows.sum(axis=0) for table in tables], axis=0)
    bins = np.sum([table.bins for table in tables], axis=0)
    return Counted(tuple(columns.tolist()), tuple(bins.tolist()))


def since(layout: Layout, now: Counted, before: Counted) -> Counted:
    """Return what was counted since."""
    columns = np.subtract(now.columns, before.columns)
    # Counts do not fall, but the sum of what callers report may: values may be negative.
    counts = np.ones(len(columns), dtype=bool)
    counts[layout.first_feedback + 1 :: FEEDBACK_COLUMNS] = False
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
