"""Whether the canary got the traffic that its weight says: if not, nothing may be compared."""

from collections.abc import Sequence

import numpy as np

from salver.rollout.betting import Counts, Sample, log_evidence
from salver.rollout.evidence import Observed
from salver.rollout.report import SampleRatio
from salver.rollout.tally import POINTS, REQUESTS, SEGMENTS, Floats


def sample_ratio(observed: Sequence[Observed], alpha: float, *, shrink: bool = True) -> SampleRatio:
    """Check each arm's traffic per segment; looking often does no harm.

    Segments of both arms must have as many requests as each other. Their square roots are
    compared, so that a heavy caller does not hide callers that are missing. Without ``shrink``
    the requests themselves are.
    """
    blocks = tuple(_traffic(each, shrink=shrink) for each in observed)
    expected = canary = everything = 0.0
    for each in observed:
        of_canary = float(each.canary.rows[:, REQUESTS].sum())
        of_both = of_canary + float(each.primary.rows[:, REQUESTS].sum())
        expected += each.block.weight / POINTS * of_both
        canary += of_canary
        everything += of_both
    if not everything:
        return SampleRatio(holds=True, expected=0.0, observed=0.0)
    values = np.sum([b.canary_sum + b.primary_sum for b in blocks], axis=0)
    sample = Sample(blocks, events=False, scale=float(values.std()) or 1.0, shrink=False)
    needed = -np.log(alpha / 2.0)
    holds = all(log_evidence(sample, 0.0, sign) < needed for sign in (1, -1))
    return SampleRatio(holds, expected / everything, canary / everything)


def _traffic(each: Observed, *, shrink: bool) -> Counts:
    weight = each.block.weight / POINTS
    canary_n = np.clip(weight * SEGMENTS - np.arange(SEGMENTS), 0.0, 1.0)
    canary, primary = each.canary.rows[:, REQUESTS], each.primary.rows[:, REQUESTS]
    if shrink:
        canary, primary = _root_share(canary, primary)
    return Counts(weight, canary_n, canary, 1.0 - canary_n, primary)


def _root_share(canary: Floats, primary: Floats) -> tuple[Floats, Floats]:
    """Return the root of both arms' requests together, divided as the requests are."""
    both = canary + primary
    root = np.sqrt(both)
    part = np.divide(canary, both, out=np.zeros_like(both), where=both > 0.0)
    return root * part, root * (1.0 - part)
