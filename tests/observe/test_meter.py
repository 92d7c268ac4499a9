"""Counting inside one process."""

import pytest

from salver.observe.meter import Meter
from salver.wire.messages import Sample


def test_counters_add_up() -> None:
    """Amounts of one series are added; series with other labels are apart."""
    meter = Meter()
    meter.add("salver_batches_total", ("a:1",))
    meter.add("salver_batches_total", ("a:1",), 2)
    meter.add("salver_batches_total", ("b:1",))
    assert set(meter.counters()) == {
        Sample("salver_batches_total", ("a:1",), 3.0),
        Sample("salver_batches_total", ("b:1",), 1.0),
    }


def test_a_value_on_a_bound_belongs_to_its_bucket() -> None:
    """Buckets are "at most", as Prometheus has them."""
    meter = Meter()
    histogram = meter.histogram("salver_batch_size", ("t", "e", "v", "0"))
    histogram.observe(1.0)
    histogram.observe(1.5)
    histogram.observe(10_000)
    assert histogram.counts[0] == 1
    assert histogram.counts[1] == 1
    assert histogram.counts[-1] == 1


def test_a_name_or_label_that_the_catalogue_lacks_is_refused() -> None:
    """Only catalogued series can be counted."""
    meter = Meter()
    with pytest.raises(KeyError):
        meter.add("salver_nonsense_total")
    with pytest.raises(ValueError, match="labels"):
        meter.add("salver_batches_total", ())
    with pytest.raises(ValueError, match="gauge"):
        meter.add("salver_connections", ())


def test_a_forgotten_gauge_is_gone() -> None:
    """A gauge whose subject ended is not reported any more."""
    meter = Meter()
    meter.set("salver_model_resident_bytes", ("shared-0", "a:1"), 5)
    meter.forget("salver_model_resident_bytes", ("shared-0", "a:1"))
    assert meter.gauges() == ()
