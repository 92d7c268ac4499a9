"""Shares of copies are compared rightly at any time."""

import numpy as np
import pytest

from salver.rollout.counts import (
    BETTER,
    EQUIVALENT,
    NOT_ENOUGH,
    WORSE,
    Share,
    compare,
    compare_with_none,
    interval,
    slower,
)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_intervals_hold_the_share_at_all_times(share: float) -> None:
    """Looked at after every draw, hardly any of 200 sequences ever leaves the interval."""
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(200):
        hits = np.cumsum(rng.random(300) < share)
        for total in range(1, 301, 3):
            low, high = interval(Share(int(hits[total - 1]), total), 0.05)
            if not low <= share <= high:
                missed += 1
                break
    assert missed <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_intervals_shrink() -> None:
    """More counts say more, and none say nothing."""
    assert interval(Share(0, 0), 0.05) == (0.0, 1.0)
    widths = [b - a for a, b in (interval(Share(n // 10, n), 0.05) for n in (10, 100, 10_000))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03


@pytest.mark.parametrize(
    ("canary", "primary", "verdict"),
    [
        (Share(0, 0), Share(0, 0), NOT_ENOUGH),
        (Share(1, 20), Share(0, 20), NOT_ENOUGH),
        (Share(30, 100), Share(0, 1000), WORSE),
        (Share(0, 100_000), Share(0, 100_000), EQUIVALENT),
        (Share(0, 1000), Share(300, 1000), BETTER),
    ],
)
def test_verdicts_follow_the_interval(canary: Share, primary: Share, verdict: str) -> None:
    """Worse is beyond the margin, equivalent within it, better below nothing."""
    found = compare("errors", canary, primary, 0.001, critical=True)
    assert found.verdict == verdict
    if found.estimate is not None:
        assert found.low <= found.estimate <= found.high
    assert "errors" in found.words()


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        (Share(0, 0), NOT_ENOUGH),
        (Share(0, 200), NOT_ENOUGH),
        (Share(12, 200), WORSE),
        (Share(0, 9000), EQUIVALENT),
        (Share(9, 9000), NOT_ENOUGH),
    ],
)
def test_what_others_never_do_needs_no_counting(share: Share, verdict: str) -> None:
    """Only one interval is uncertain, and nothing counted shows nothing."""
    found = compare_with_none("failed", share, 0.001, critical=True)
    assert found.verdict == verdict
    other = compare("failed", share, Share(0, share.total), 0.001, critical=True)
    assert found.low >= other.low
    assert found.high <= other.high


def test_slow_answers_are_those_above_the_primarys_bucket() -> None:
    """The bucket of the primary's 95th percentile divides both."""
    primary = [90, 6, 3, 1]
    assert slower([50, 25, 15, 10], primary) == (Share(25, 100), Share(4, 100))
    assert slower([], []) == (Share(0, 0), Share(0, 0))
