"""Turns finished exchanges into metrics, many at a time."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from salver.core.exchange import Exchange
from salver.observe.catalog import SECONDS_BUCKETS
from salver.observe.meter import Meter

Group = tuple[str, str, str, str]

_SECONDS = np.array(SECONDS_BUCKETS)
_DURATIONS = ("salver_request_seconds", "salver_queue_seconds", "salver_run_seconds")
_NANOSECOND = 1e-9


def _alike(one: Exchange, other: Exchange) -> bool:
    """Tell, quickly, that two count towards the same series; False may be wrong."""
    mine, its = one.context, other.context
    return (
        mine.principal is its.principal
        and one.endpoint == other.endpoint
        and mine.variant is its.variant
        and mine.weight_epoch == its.weight_epoch
    )


class ExchangeMetrics:
    """Subscriber of the exchange ring."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __call__(self, exchanges: list[Exchange]) -> None:
        """Count a batch of exchanges."""
        groups: dict[tuple[str, str, str, int], list[Exchange]] = {}
        last: Exchange | None = None
        group: list[Exchange] = []
        for exchange in exchanges:
            if last is None or not _alike(exchange, last):
                context = exchange.context
                key = (context.tenant, exchange.endpoint, context.variant, context.weight_epoch)
                group, last = groups.setdefault(key, []), exchange
            group.append(exchange)
        for (tenant, endpoint, variant, epoch), members in groups.items():
            self._count((tenant, endpoint, variant, str(epoch)), members)

    def _count(self, labels: Group, exchanges: list[Exchange]) -> None:
        codes = Counter([exchange.code for exchange in exchanges])
        for code, count in codes.items():
            self._meter.add("salver_requests_total", (*labels, code or "ok"), count)
        self._observe(_DURATIONS[:1], labels, [[one.total_ns for one in exchanges]])
        timings = [exchange.timing for exchange in exchanges if exchange.timing is not None]
        if timings:
            durations = [[one.queue_ns for one in timings], [one.run_ns for one in timings]]
            self._observe(_DURATIONS[1:], labels, durations)
            sizes = Counter([one.batch_size for one in timings])
            histogram = self._meter.histogram("salver_batch_size", labels)
            for size, count in sizes.items():
                histogram.observe(size, count)

    def _observe(self, names: Sequence[str], labels: Group, values_ns: list[list[int]]) -> None:
        """Add to as many histograms as there are rows of values."""
        seconds = np.array(values_ns, np.float64)
        seconds *= _NANOSECOND
        places = _SECONDS.searchsorted(seconds)
        for name, row, total in zip(names, places, seconds.sum(axis=1).tolist(), strict=True):
            histogram = self._meter.histogram(name, labels)
            counts = histogram.counts
            for place, count in enumerate(np.bincount(row).tolist()):
                counts[place] += count
            histogram.total += total
