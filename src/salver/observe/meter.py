"""Cumulative counts of one process, read out as snapshots.

Nothing here is thread-safe: a process counts on its event loop's thread.
"""

from bisect import bisect_left
from collections.abc import Collection

from salver.observe.catalog import METRICS, Kind
from salver.observe.fading import leave_out
from salver.wire.messages import HistogramSample, Sample

Labels = tuple[str, ...]
_Key = tuple[str, Labels]


class Histogram:
    """Counts per bucket and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add one observation, or as many of the same value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Meter:
    """All counters, gauges and histograms of this process.

    Names and the number of labels are checked against the catalogue when a series is first
    used; a wrong one raises ``KeyError`` or ``ValueError``, which is a programming error.
    """

    def __init__(self) -> None:
        self._counters: dict[_Key, float] = {}
        self._gauges: dict[_Key, float] = {}
        self._histograms: dict[_Key, Histogram] = {}

    def add(self, name: str, labels: Labels = (), amount: float = 1.0) -> None:
        """Increase a counter."""
        key = (name, labels)
        value = self._counters.get(key)
        if value is None:
            _check(name, labels, Kind.COUNTER)
            value = 0.0
        self._counters[key] = value + amount

    def set(self, name: str, labels: Labels, value: float) -> None:
        """Set a gauge."""
        _check(name, labels, Kind.GAUGE)
        self._gauges[(name, labels)] = value

    def forget(self, name: str, labels: Labels) -> None:
        """Remove a gauge whose subject is gone."""
        self._gauges.pop((name, labels), None)

    def forget_variants(self, variants: Collection[str]) -> None:
        """Remove all series of versions that are gone, also those that callers kept."""
        leave_out(self._counters, variants)
        leave_out(self._gauges, variants)
        leave_out(self._histograms, variants)

    def histogram(self, name: str, labels: Labels = ()) -> Histogram:
        """Return the series to observe into; callers may keep it."""
        key = (name, labels)
        histogram = self._histograms.get(key)
        if histogram is None:
            _check(name, labels, Kind.HISTOGRAM)
            histogram = self._histograms[key] = Histogram(METRICS[name].buckets)
        return histogram

    def counters(self) -> tuple[Sample, ...]:
        """Return every counter's value so far."""
        return tuple(Sample(name, labels, v) for (name, labels), v in self._counters.items())

    def gauges(self) -> tuple[Sample, ...]:
        """Return every gauge's present value."""
        return tuple(Sample(name, labels, v) for (name, labels), v in self._gauges.items())

    def histograms(self) -> tuple[HistogramSample, ...]:
        """Return every histogram so far; counts are per bucket, not cumulative."""
        return tuple(
            HistogramSample(name, labels, tuple(h.counts), h.total)
            for (name, labels), h in self._histograms.items()
        )


def _check(name: str, labels: Labels, kind: Kind) -> None:
    metric = METRICS[name]
    if metric.kind is not kind or len(labels) != len(metric.labels):
        raise ValueError(f"{name} is a {metric.kind} with labels {metric.labels}, not {labels}")
