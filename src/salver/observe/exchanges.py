"""Turns finished exchanges into metrics, many at a time."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from salver.core.exchange import JointExchange, Record
from salver.core.timing import Timing
from salver.observe.catalog import SECONDS_BUCKETS
from salver.observe.meter import Meter

Group = tuple[str, str, str, str]

_SECONDS: Final = np.array(SECONDS_BUCKETS)
_DURATIONS: Final = ("salver_request_seconds", "salver_queue_seconds", "salver_run_seconds")
_NANOSECOND: Final = 1e-9


class ExchangeMetrics:
    """Subscriber of the exchange ring."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __call__(self, records: list[Record]) -> None:
        """Count a batch of exchanges."""
        groups: dict[tuple[str, str, str, int], list[Record]] = {}
        group: list[Record] = []
        principal = variant = endpoint = None
        epoch = -1
        for record in records:
            context = record.context
            # Neighbours mostly count towards the same series, which identities tell quickly.
            if (
                context.variant is not variant
                or record.endpoint is not endpoint
                or context.principal is not principal
                or context.weight_epoch != epoch
            ):
                principal, variant = context.principal, context.variant
                endpoint, epoch = record.endpoint, context.weight_epoch
                group = groups.setdefault((context.tenant, endpoint, variant, epoch), [])
            group.append(record)
        for (tenant, endpoint, variant, epoch), members in groups.items():
            self._count((tenant, endpoint, variant, str(epoch)), members)

    def _count(self, labels: Group, records: list[Record]) -> None:
        codes: Counter[str] = Counter()
        totals_ns: list[int] = []
        timings: list[Timing] = []
        cold_ns: list[int] = []
        for record in records:
            if isinstance(record, JointExchange):
                count = len(record)
                codes[""] += count
                totals_ns += [record.total_ns] * count
                timings += record.timings
                if record.timings[0].cold:
                    cold_ns += [record.total_ns] * count
            else:
                codes[record.code] += 1
                totals_ns.append(record.total_ns)
                if record.timing is not None:
                    timings.append(record.timing)
                    if record.timing.cold:
                        cold_ns.append(record.total_ns)
        for code, count in codes.items():
            self._meter.add("salver_requests_total", (*labels, code or "ok"), count)
        self._observe(_DURATIONS[:1], labels, [totals_ns])
        if cold_ns:
            self._observe(("salver_cold_request_seconds",), labels, [cold_ns])
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
