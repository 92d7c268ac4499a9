"""The traffic of an experiment's arms: a mismatch is found, and chance is none."""

import numpy as np
import pytest

from salver.core.errors import InvalidRequest, WireError
from salver.core.routing import ring
from salver.rollout.evidence import Reading
from salver.rollout.exposures import MAX_BLOCKS, Exposures
from salver.rollout.tally import LATENCY_BINS, REQUESTS, SEGMENTS, Layout, Table, pack

ARMS = ("m:1", "m:2", "m:3")
ALPHA = 0.001


def test_a_copy_stays_as_it_was() -> None:
    """Another thread may look at it while more comes in."""
    found = Exposures(ARMS[:2], 0)
    found.begin(7, (5_000, 5_000))
    found.take(reading("m:2", {1: 5}))
    copied = found.copy()
    found.begin(8, (5_000, 5_000))
    found.take(reading("m:2", {1: 9}, epoch=8))
    assert (len(copied.blocks), len(found.blocks)) == (1, 2)
    before, after = (each.ratio(ALPHA).arms for each in (copied, found))
    assert [arm.requests for arm in before] == [0, 5]
    assert [arm.requests for arm in after] == [0, 14]


def reading(
    arm: str, counts: dict[int, int], *, epoch: int = 7, number: int = 1, source: str = "g1"
) -> Reading:
    """Return what a gateway counted of an arm, by segment."""
    rows = np.zeros((SEGMENTS, Layout().width))
    for segment, count in counts.items():
        rows[segment, REQUESTS] = count
    return Reading(source, number, epoch, arm, pack(Table(rows, np.zeros(LATENCY_BINS))))


def traffic(
    weights: tuple[int, ...],
    requests: int,
    rng: np.random.Generator,
    *,
    floor: int = 0,
    epoch: int = 7,
    lost: float = 0.0,
) -> list[Reading]:
    """Return readings of an epoch whose arms have these weights; ``m:2`` loses a part of its own.

    Callers are 2,000, of whom a few send most.
    """
    callers = rng.integers(0, 10_000, 2_000)
    places = callers[np.minimum(rng.zipf(1.5, requests), 2_000) - 1]
    edges = np.cumsum([length for _, length in ring(weights, floor)])
    owners = np.array([index for index, _ in ring(weights, floor)])
    chosen = owners[np.searchsorted(edges, places, side="right")]
    kept = (chosen != 1) | (rng.random(requests) >= lost)
    found = []
    for index, name in enumerate(("primary", *ARMS[1:])):
        own = places[kept & (chosen == index)] // 5
        segments, counts = np.unique(own, return_counts=True)
        both = dict(zip(segments.tolist(), counts.tolist(), strict=True))
        found.append(reading(name, both, epoch=epoch))
    return found


def given(weights: tuple[int, ...], readings: list[Reading], floor: int = 0) -> Exposures:
    """Return the exposures of one block."""
    exposures = Exposures(ARMS, floor)
    exposures.begin(7, weights)
    for each in readings:
        exposures.take(each)
    return exposures


@pytest.mark.parametrize("weights", [(3_400, 3_300, 3_300), (8_000, 1_000, 1_000)])
def test_traffic_as_the_weights_say_holds(weights: tuple[int, ...]) -> None:
    """In 60 experiments with heavy callers there is no false alarm."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ratio = given(weights, traffic(weights, 6_000, rng)).ratio(ALPHA)
        assert ratio.holds, ratio
        assert [arm.expected for arm in ratio.arms] == pytest.approx(np.array(weights) / 10_000)
        assert sum(arm.requests for arm in ratio.arms) == 6_000


def test_an_arm_that_loses_requests_is_named() -> None:
    """Half of them are missing: nothing may be compared, and the reason says of what."""
    weights = (3_400, 3_300, 3_300)
    rng = np.random.default_rng(1)
    callers = dict.fromkeys(range(SEGMENTS), 4)
    readings = [
        reading("m:2", {s: int(rng.random() < 0.5) * n for s, n in callers.items() if s < 660}),
        reading("m:3", {s: n for s, n in callers.items() if 660 <= s < 1_320}),
        reading("primary", {s: n for s, n in callers.items() if s >= 1_320}),
    ]
    ratio = given(weights, readings).ratio(ALPHA)
    assert not ratio.holds
    assert ratio.reason.startswith("m:2 got ")
    assert "m:3" not in ratio.reason
    assert ratio.arms[1].observed < 0.25


def test_only_the_floors_are_looked_at_where_weights_follow_success() -> None:
    """What is outside of them depends on what was seen before."""
    exposures = Exposures(ARMS, 1_000)
    rng = np.random.default_rng(2)
    for epoch, weights in ((7, (3_400, 3_300, 3_300)), (8, (1_000, 8_000, 1_000))):
        exposures.begin(epoch, weights)
        for each in traffic(weights, 4_000, rng, floor=1_000, epoch=epoch):
            exposures.take(each)
    ratio = exposures.ratio(ALPHA)
    assert ratio.holds
    assert [arm.expected for arm in ratio.arms] == pytest.approx([1 / 3] * 3)
    assert 1_000 < sum(arm.requests for arm in ratio.arms) < 4_500


def test_counts_are_taken_once_and_kept() -> None:
    """Repeated, late and foreign readings change nothing; what is stored says the same again."""
    exposures = given(
        (5_000, 3_000, 2_000), [reading("m:2", {1: 5}), reading("primary", {1_500: 4})]
    )
    stored = dict(exposures.unsaved)
    assert set(stored) == {"block:7", "g1:7:1", "g1:7:0"}
    exposures.take(reading("m:2", {1: 3}))
    exposures.take(reading("m:2", {1: 9}, epoch=99))
    assert exposures.unsaved == stored
    with pytest.raises(WireError):
        exposures.take(reading("m:9", {1: 9}))
    exposures.saved(stored)
    assert not exposures.unsaved
    exposures.take(reading("m:2", {1: 6}, number=2))
    exposures.take(reading("m:2", {1: 2}, source="g2"))
    assert set(exposures.unsaved) == {"g1:7:1", "g2:7:1"}
    again = Exposures(ARMS, 0)
    again.restore({**stored, **exposures.unsaved})
    assert again.ratio(ALPHA) == exposures.ratio(ALPHA)
    assert [arm.requests for arm in again.ratio(ALPHA).arms] == [4, 8, 0]


def test_blocks_are_bounded() -> None:
    """An experiment that goes on for ever does not fill memory."""
    exposures = Exposures(ARMS, 0)
    for epoch in range(MAX_BLOCKS):
        assert exposures.begin(epoch, (5_000, 3_000, 2_000))
    assert not exposures.begin(0, (5_000, 3_000, 2_000))
    with pytest.raises(InvalidRequest, match="at most"):
        exposures.begin(MAX_BLOCKS, (5_000, 3_000, 2_000))


def test_nothing_counted_is_no_mismatch() -> None:
    """An experiment that has just begun is not suspected."""
    assert Exposures(ARMS, 0).ratio(ALPHA).holds
