"""Whether arms got the traffic that their weights say: if not, nothing may be compared."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from salver.rollout.betting import Counts, Sample, log_evidence
from salver.rollout.evidence import Observed
from salver.rollout.report import SampleRatio
from salver.rollout.tally import POINTS, REQUESTS, SEGMENTS, Floats

_WIDTH = POINTS // SEGMENTS
_TINY = 1e-12


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


class ArmTraffic(msgspec.Struct, frozen=True):
    """An arm of an experiment: its share of the requests that are compared."""

    arm: str
    expected: float
    observed: float
    requests: int


class SplitRatio(msgspec.Struct, frozen=True):
    """Whether the arms of an experiment got the traffic that their weights say.

    ``reason`` says which did not, where it does not hold.
    """

    holds: bool
    arms: tuple[ArmTraffic, ...]
    reason: str = ""


def split_ratio(
    shares: Sequence[tuple[str, Floats]], requests: Sequence[Floats], alpha: float
) -> SplitRatio:
    """Check the traffic of an experiment's arms; looking often does no harm.

    ``shares`` are the arms, the primary one first, with the part of each segment that is theirs,
    ``requests`` how many each had in them. Every other arm is compared with the primary one, as
    ``sample_ratio`` does it; ``alpha`` is the chance that any of these is ever a false alarm.
    """
    widths = [float(share.sum()) for _, share in shares]
    counts = [float(n.sum()) for n in requests]
    width, count = sum(widths), sum(counts)
    found = tuple(
        ArmTraffic(name, own / width if width else 0.0, n / count if count else 0.0, int(n))
        for (name, _), own, n in zip(shares, widths, counts, strict=True)
    )
    apart = [
        (found[0], other)
        for other, (_, share), n in zip(found[1:], shares[1:], requests[1:], strict=True)
        if not _even(share, n, shares[0][1], requests[0], alpha / max(1, len(shares) - 1))
    ]
    reason = "; ".join(
        f"{other.arm} got {other.requests} requests beside {first.requests} of {first.arm}, where "
        f"the weights say {other.expected / first.expected:.3g} to 1"
        for first, other in apart
    )
    return SplitRatio(not apart, found, reason)


def shares_of(parts: Sequence[tuple[int, int]], arms: int, places: int = POINTS) -> list[Floats]:
    """Return for each arm which part of each segment is its own, below ``places``.

    ``parts`` are pairs of an arm and a length along the ring, see ``core.routing.ring``.
    """
    edges = [0]
    for _, length in parts:
        edges.append(edges[-1] + length)
    found = [np.zeros(SEGMENTS) for _ in range(arms)]
    first = np.arange(SEGMENTS) * float(_WIDTH)
    for (arm, _), (start, end) in zip(parts, pairwise(edges), strict=True):
        inside = np.minimum(first + _WIDTH, min(end, places)) - np.maximum(first, start)
        found[arm] += np.clip(inside, 0.0, None) / _WIDTH
    return found


def _even(
    share: Floats, requests: Floats, first_share: Floats, first_requests: Floats, alpha: float
) -> bool:
    weight = float(share.sum() / max(share.sum() + first_share.sum(), _TINY))
    mine, others = _root_share(requests, first_requests)
    block = Counts(weight, share, mine, first_share, others)
    values = mine + others
    used = share + first_share > 0.0
    if not values.any() or not 0.0 < weight < 1.0:
        return True
    sample = Sample((block,), events=False, scale=float(values[used].std()) or 1.0, shrink=False)
    needed = -np.log(alpha / 2.0)
    return all(log_evidence(sample, 0.0, sign) < needed for sign in (1, -1))


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
