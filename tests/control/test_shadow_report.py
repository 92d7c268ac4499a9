"""What a shadow's report says of the largest difference, which is counted in bins."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from salver.cli.shadow import _lines
from salver.control.rollouts.side_reports import SideReports
from salver.core.clock import ManualClock
from salver.observe.catalog import DIFFERENCE_BUCKETS
from salver.observe.merge import Merger, Totals
from salver.observe.meter import Histogram
from tests.control.parts import Control, control, deploy_first, variant

AT_MOST, MORE_THAN = "largest_difference_at_most", "largest_difference_more_than"


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Control]:
    """Give a control with a shadow, whose copies are of weight epoch 4."""
    parts = control(tmp_path, "one", ManualClock())
    deploy_first(parts, 2)
    parts.serve(variant("m:1"), number=3)
    asyncio.run(parts.companions.shadow("e", "2", 5_000, "alice", force=False))
    yield parts
    parts.thread.stop()


def report(parts: Control, differences: Sequence[float]) -> dict[str, Any]:
    """Return the report after copies whose answers differ by so much."""
    labels = ("e", "m:2", "4")
    counted = Histogram(DIFFERENCE_BUCKETS)
    for difference in differences:
        counted.observe(difference)
    totals = Totals(
        {("salver_shadow_copies_total", (*labels, "differs")): float(len(differences))},
        {("salver_shadow_difference", labels): (tuple(counted.counts), counted.total)},
    )
    return asyncio.run(SideReports(parts.companions, Merger(totals)).shadow("e"))


@pytest.mark.parametrize(
    ("differences", "at_most", "more_than", "line"),
    [
        ((3.0, 597.0), None, 100.0, "difference more than 100"),
        ((100.0,), 100.0, None, "difference at most 100"),
        ((0.02, 3.0), 10.0, None, "difference at most 10"),
        ((0.0,), 1e-6, None, "difference at most 1e-06"),
        ((), None, None, "difference -"),
    ],
)
def test_a_difference_that_no_bin_bounds_is_not_lost(
    parts: Control,
    differences: tuple[float, ...],
    at_most: float | None,
    more_than: float | None,
    line: str,
) -> None:
    """One over the last bin is said to be more than that; only without any copy nothing is said."""
    found = report(parts, differences)
    assert (found[AT_MOST], found[MORE_THAN]) == (at_most, more_than)
    assert found["copies"]["differs"] == len(differences)
    assert f"  {line}" in _lines(found)
