"""Turns finished exchanges into metrics, many at a time."""

import numpy as np
import numpy.typing as npt

from salver.core.exchange import Exchange
from salver.observe.catalog import BATCH_BUCKETS, SECONDS_BUCKETS
from salver.observe.meter import Histogram, Meter

Group = tuple[str, str, str, str]
Floats = npt.NDArray[np.float64]

_SECONDS = np.array(SECONDS_BUCKETS)
_BATCHES = np.array(BATCH_BUCKETS)
_NANOSECOND = 1e-9


class ExchangeMetrics:
    """Subscriber of the exchange ring."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __call__(self, exchanges: list[Exchange]) -> None:
        """Count a batch of exchanges."""
        groups: dict[tuple[str, str, str, int], list[Exchange]] = {}
        for exchange in exchanges:
            context = exchange.context
            key = (context.tenant, exchange.endpoint, context.variant, context.weight_epoch)
            group = groups.get(key)
            if group is None:
                groups[key] = [exchange]
            else:
                group.append(exchange)
        for (tenant, endpoint, variant, epoch), members in groups.items():
            self._count((tenant, endpoint, variant, str(epoch)), members)

    def _count(self, labels: Group, exchanges: list[Exchange]) -> None:
        codes: dict[str, int] = {}
        for exchange in exchanges:
            codes[exchange.code] = codes.get(exchange.code, 0) + 1
        for code, count in codes.items():
            self._meter.add("salver_requests_total", (*labels, code or "ok"), count)
        totals = [exchange.total_ns for exchange in exchanges]
        self._observe("salver_request_seconds", labels, totals)
        timings = [exchange.timing for exchange in exchanges if exchange.timing is not None]
        if timings:
            self._observe("salver_queue_seconds", labels, [t.queue_ns for t in timings])
            self._observe("salver_run_seconds", labels, [t.run_ns for t in timings])
            sizes = np.array([t.batch_size for t in timings], np.float64)
            _add(self._meter.histogram("salver_batch_size", labels), _BATCHES, sizes)

    def _observe(self, name: str, labels: Group, values_ns: list[int]) -> None:
        seconds = np.array(values_ns, np.float64) * _NANOSECOND
        _add(self._meter.histogram(name, labels), _SECONDS, seconds)


def _add(histogram: Histogram, bounds: Floats, values: Floats) -> None:
    places = np.searchsorted(bounds, values, side="left")
    for place, count in enumerate(np.bincount(places, minlength=len(bounds) + 1).tolist()):
        histogram.counts[place] += count
    histogram.total += float(values.sum())
