"""Metrics as the text that Prometheus scrapes."""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from salver.observe.catalog import METRICS
from salver.wire.messages import HistogramSample, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Samples(Collector):
    def __init__(
        self,
        counters: Iterable[Sample],
        gauges: Iterable[Sample],
        histograms: Iterable[HistogramSample],
    ) -> None:
        self._counters = counters
        self._gauges = gauges
        self._histograms = histograms

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each metric that has samples."""
        yield from _families(self._counters, CounterMetricFamily)
        yield from _families(self._gauges, GaugeMetricFamily)
        yield from _histogram_families(self._histograms)


def render(
    counters: Iterable[Sample] = (),
    gauges: Iterable[Sample] = (),
    histograms: Iterable[HistogramSample] = (),
) -> bytes:
    """Return the exposition text; names that the catalogue lacks are left out.

    Another version's process may send such names.
    """
    return generate_latest(_Samples(counters, gauges, histograms))


def _families(
    samples: Iterable[Sample], family_of: type[CounterMetricFamily | GaugeMetricFamily]
) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for sample in samples:
        metric = METRICS.get(sample.name)
        if metric is None:
            continue
        family = families.get(sample.name)
        if family is None:
            family = family_of(sample.name, metric.help, labels=metric.labels)
            families[sample.name] = family
        family.add_metric(sample.labels, sample.value)
    yield from families.values()


def _histogram_families(samples: Iterable[HistogramSample]) -> Iterator[Metric]:
    families: dict[str, HistogramMetricFamily] = {}
    for sample in samples:
        metric = METRICS.get(sample.name)
        if metric is None or len(sample.counts) != len(metric.buckets) + 1:
            continue
        family = families.get(sample.name)
        if family is None:
            family = HistogramMetricFamily(sample.name, metric.help, labels=metric.labels)
            families[sample.name] = family
        bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
        cumulative = accumulate(float(count) for count in sample.counts)
        family.add_metric(
            sample.labels, list(zip(bounds, cumulative, strict=True)), sum_value=sample.total
        )
    yield from families.values()
