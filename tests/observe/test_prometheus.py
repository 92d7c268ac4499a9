"""The exposition text, read back with Prometheus' own parser."""

from prometheus_client.parser import text_string_to_metric_families

from salver.observe.catalog import METRICS, Kind
from salver.observe.meter import Meter
from salver.observe.prometheus import render
from salver.wire.messages import HistogramSample, Sample


def test_every_metric_of_the_catalogue_is_rendered_and_parses() -> None:
    """Each metric appears with its type, labels and value."""
    meter = Meter()
    for metric in METRICS.values():
        labels = tuple(f"l{index}" for index in range(len(metric.labels)))
        if metric.kind is Kind.COUNTER:
            meter.add(metric.name, labels, 7)
        elif metric.kind is Kind.GAUGE:
            meter.set(metric.name, labels, 7)
        else:
            meter.histogram(metric.name, labels).observe(metric.buckets[0])
    text = render(meter.counters(), meter.gauges(), meter.histograms()).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for metric in METRICS.values():
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.kind.value
        assert set(family.samples[0].labels) - {"le"} == set(metric.labels)


def test_buckets_are_cumulative() -> None:
    """Counts per bucket become counts up to the bucket, and +Inf is all of them."""
    name = "salver_batch_size"
    counts = (1,) * (len(METRICS[name].buckets) + 1)
    labels = ("t", "e", "v", "0")
    text = render(histograms=[HistogramSample(name, labels, counts, 5.0)]).decode()
    (family,) = text_string_to_metric_families(text)
    buckets = [s.value for s in family.samples if s.name.endswith("_bucket")]
    assert buckets == [float(index + 1) for index in range(len(counts))]


def test_unknown_names_are_left_out() -> None:
    """A sample that this version does not know does no harm."""
    assert render([Sample("salver_of_tomorrow_total", (), 1)]) == b""


def test_label_values_are_escaped() -> None:
    """A label value cannot break out of its line."""
    text = render([Sample("salver_batches_total", ('a"\n} 9',), 1)]).decode()
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].labels == {"variant": 'a"\n} 9'}
