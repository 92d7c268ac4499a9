"""Many processes' counts as one total that never falls and never counts twice.

A process sends cumulative snapshots under its incarnation, which is unique per process start.
Of each incarnation only the snapshot with the highest number counts, so that lost, repeated and
late ones do no harm. When a process is gone its last counts are folded into the retired totals.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from salver.observe.catalog import variant_of
from salver.observe.fading import Fading, leave_out
from salver.wire.messages import HistogramSample, Sample, Snapshot

Key = tuple[str, tuple[str, ...]]

_REMEMBERED = 10_000


class Totals(NamedTuple):
    """Counters and histograms by name and labels."""

    counters: dict[Key, float]
    histograms: dict[Key, tuple[tuple[int, ...], float]]

    def add(self, snapshot: Snapshot) -> None:
        """Add a snapshot's counts."""
        for sample in snapshot.counters:
            key = (sample.name, sample.labels)
            self.counters[key] = self.counters.get(key, 0.0) + sample.value
        for histogram in snapshot.histograms:
            self.add_histogram(histogram)

    def add_histogram(self, sample: HistogramSample) -> None:
        """Add one histogram; one with other buckets than before is left out."""
        key = (sample.name, sample.labels)
        known = self.histograms.get(key)
        if known is None:
            self.histograms[key] = (sample.counts, sample.total)
            return
        counts, total = known
        if len(counts) == len(sample.counts):
            merged = tuple(a + b for a, b in zip(counts, sample.counts, strict=True))
            self.histograms[key] = (merged, total + sample.total)

    def leave_out(self, variants: Collection[str]) -> None:
        """Remove the series of versions."""
        leave_out(self.counters, variants)
        leave_out(self.histograms, variants)

    def counter_samples(self) -> tuple[Sample, ...]:
        """Return the counters as samples."""
        return tuple(Sample(name, labels, v) for (name, labels), v in self.counters.items())

    def histogram_samples(self) -> tuple[HistogramSample, ...]:
        """Return the histograms as samples."""
        return tuple(
            HistogramSample(name, labels, counts, total)
            for (name, labels), (counts, total) in self.histograms.items()
        )


class Merger:
    """The counts of all processes that ever ran.

    ``retired`` are the totals of those that are gone, as loaded at start.
    """

    def __init__(self, retired: Totals | None = None) -> None:
        self.retired = retired or Totals({}, {})
        self.live: dict[str, Snapshot] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._fading: Fading | None = None
        self._faded = frozenset[str]()

    def update(self, incarnation: str, snapshot: Snapshot) -> bool:
        """Take a snapshot; False when it is old, repeated, or of a process already retired."""
        known = self.live.get(incarnation)
        if incarnation in self._gone or (known is not None and snapshot.number <= known.number):
            return False
        self.live[incarnation] = snapshot
        return True

    def retire(self, incarnation: str) -> Snapshot | None:
        """Fold a gone process into the retired totals, once; returns what was folded."""
        snapshot = self.live.pop(incarnation, None)
        if snapshot is None:
            return None
        self.retired.add(snapshot)
        self._gone[incarnation] = None
        if len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)
        return snapshot

    def count(self, name: str, labels: tuple[str, ...]) -> None:
        """Add one to a counter of this process's own, which goes with the retired totals."""
        key = (name, labels)
        self.retired.counters[key] = self.retired.counters.get(key, 0.0) + 1.0

    def begin_anew(self) -> None:
        """Know of no version when it left the plan: another control may have had it planned."""
        self._fading, self._faded = None, frozenset()

    def planned(self, variants: Collection[str], now_ns: int) -> None:
        """Take note of the versions of the plan; those that left it long ago are shown no more.

        All of a series goes at once, that of live processes too: a part would look like a fall.
        """
        if self._fading is None:
            known = {variant_of(key) for kind in self.totals() for key in kind}
            self._fading = Fading(known=known - {""})
        self._faded = self._fading.after(variants, now_ns)
        if self._faded:
            self.retired.leave_out(self._faded)

    def totals_retired(self) -> Totals:
        """Return a copy of the retired totals."""
        return Totals(dict(self.retired.counters), dict(self.retired.histograms))

    def totals(self) -> Totals:
        """Return the totals of all processes, gone and live."""
        totals = self.totals_retired()
        for snapshot in self.live.values():
            totals.add(snapshot)
        if self._faded:
            totals.leave_out(self._faded)
        return totals

    def gauges(self, connected: set[str] | None = None) -> tuple[Sample, ...]:
        """Return the live processes' gauges; equal series of several processes are added up.

        ``connected`` limits them to these incarnations.
        """
        sums: dict[Key, float] = {}
        for incarnation, snapshot in self.live.items():
            if connected is not None and incarnation not in connected:
                continue
            for sample in snapshot.gauges:
                key = (sample.name, sample.labels)
                sums[key] = sums.get(key, 0.0) + sample.value
        return tuple(Sample(name, labels, value) for (name, labels), value in sums.items())
