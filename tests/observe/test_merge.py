"""Totals over many processes."""

from hypothesis import given
from hypothesis import strategies as st

from salver.observe.merge import Merger
from salver.wire.messages import HistogramSample, Sample, Snapshot

NAME = "salver_batches_total"
LABELS = ("churn:1",)


def snapshot(number: int, value: float, counts: tuple[int, ...] = (0, 0)) -> Snapshot:
    """Return a snapshot with one counter and one histogram."""
    return Snapshot(
        number,
        plan=1,
        pid=1,
        state="ready",
        resident_bytes=0,
        counters=(Sample(NAME, LABELS, value),),
        gauges=(Sample("salver_connections", (), value),),
        histograms=(HistogramSample("salver_run_seconds", LABELS, counts, float(sum(counts))),),
    )


def test_a_repeated_or_late_snapshot_counts_once() -> None:
    """Only the snapshot with the highest number of an incarnation counts."""
    merger = Merger()
    assert merger.update("a", snapshot(2, 10))
    assert not merger.update("a", snapshot(2, 10))
    assert not merger.update("a", snapshot(1, 5))
    assert merger.totals().counters[(NAME, LABELS)] == 10


def test_a_gone_process_keeps_its_counts_and_is_folded_once() -> None:
    """Retiring moves the counts; neither a second retirement nor a late snapshot adds to them."""
    merger = Merger()
    merger.update("a", snapshot(1, 10, (1, 2)))
    assert merger.retire("a") is not None
    assert merger.retire("a") is None
    assert not merger.update("a", snapshot(9, 99))
    merger.update("b", snapshot(1, 1, (3, 0)))
    totals = merger.totals()
    assert totals.counters[(NAME, LABELS)] == 11
    assert totals.histograms[("salver_run_seconds", LABELS)] == ((4, 2), 6.0)


def test_gauges_are_those_of_live_processes() -> None:
    """A gauge disappears with its process and equal series are added up."""
    merger = Merger()
    merger.update("a", snapshot(1, 3))
    merger.update("b", snapshot(1, 4))
    assert merger.gauges() == (Sample("salver_connections", (), 7),)
    merger.retire("a")
    assert merger.gauges() == (Sample("salver_connections", (), 4),)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.booleans()),
        max_size=60,
    )
)
def test_totals_never_fall(steps: list[tuple[str, int, bool]]) -> None:
    """Whatever the order of snapshots, deaths and restarts, a total never decreases."""
    merger = Merger()
    counts = dict.fromkeys("abc", 0)
    numbers = dict.fromkeys("abc", 0)
    generations = dict.fromkeys("abc", 0)
    everything = 0
    for process, amount, dies in steps:
        counts[process] += amount
        numbers[process] += 1
        everything += amount
        before = merger.totals().counters.get((NAME, LABELS), 0)
        incarnation = f"{process}{generations[process]}"
        merger.update(incarnation, snapshot(numbers[process], counts[process]))
        if dies:
            merger.retire(incarnation)
            counts[process] = numbers[process] = 0
            generations[process] += 1
        assert merger.totals().counters[(NAME, LABELS)] >= before
        assert merger.totals().counters[(NAME, LABELS)] == everything
