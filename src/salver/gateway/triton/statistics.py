"""Counts finished exchanges by endpoint and version, as Triton's statistics extension does."""

from collections.abc import Callable
from typing import Any

from salver.core.clock import Clock
from salver.core.context import RequestContext
from salver.core.exchange import ExchangeRing, JointExchange, Record
from salver.core.timing import Timing
from salver.gateway.triton.config import max_batch_size
from salver.gateway.triton.counters import Counters
from salver.wire.messages import EndpointPlan, VariantPlan

_MAX_KEPT = 4096
_ALONE = Timing()

Key = tuple[str, str, str]


class Statistics:
    """Subscriber of the exchange ring.

    Counts go by tenant, endpoint and version, and stay while the plan has them; others are let go
    when there are very many. Requests that reached no version are not counted.
    """

    def __init__(
        self, ring: ExchangeRing, find: Callable[[str], EndpointPlan | None], clock: Clock
    ) -> None:
        self._ring = ring
        self._find = find
        self._clock = clock
        self._counters: dict[Key, Counters] = {}

    def __call__(self, records: list[Record]) -> None:
        """Count a batch of exchanges."""
        unix_ns = self._clock.unix_ns() - self._clock.monotonic_ns()
        endpoint = version = tenant = None
        counters, joins = Counters(), False
        for record in records:
            context = record.context
            if not context.version:
                continue
            # Neighbours mostly count towards the same version, which identities tell quickly.
            if (
                record.endpoint is not endpoint
                or context.version is not version
                or context.tenant is not tenant
            ):
                endpoint, version, tenant = record.endpoint, context.version, context.tenant
                counters, joins = self._group(record, context)
            _count(counters, record, joins=joins)
            counters.seen(unix_ns + context.arrival_ns + record.total_ns)

    def document(self, endpoint: EndpointPlan, version: str | None = None) -> list[dict[str, Any]]:
        """Return the entries of an endpoint's versions, or of the one that is named.

        What has been answered so far is in them.
        """
        self._ring.drain()
        versions = sorted({variant.version for variant in endpoint.answering}, key=int)
        nothing = Counters()
        return [
            self._counters.get((endpoint.tenant, endpoint.name, one), nothing).document(
                endpoint.name, one
            )
            for one in versions
            if version in (None, one)
        ]

    def _group(self, record: Record, context: RequestContext) -> tuple[Counters, bool]:
        """Return the counters for a record, and whether its version joins requests in batches."""
        variant = self._variant(record.endpoint, context.version)
        key = (context.tenant, record.endpoint, context.version)
        counters = self._counters.get(key)
        if counters is None:
            if len(self._counters) >= _MAX_KEPT:
                self._let_go()
            counters = self._counters[key] = Counters()
        return counters, variant is not None and max_batch_size(variant) > 0

    def _let_go(self) -> None:
        self._counters = {
            key: counters
            for key, counters in self._counters.items()
            if self._variant(key[1], key[2]) is not None
        }

    def _variant(self, endpoint: str, version: str) -> VariantPlan | None:
        plan = self._find(endpoint)
        variants = () if plan is None else plan.variants
        return next((one for one in variants if one.version == version), None)


def _count(counters: Counters, record: Record, *, joins: bool) -> None:
    """Count a record; what is never joined with others is a batch of one, whatever its shape."""
    rows = record.rows if joins else 1
    if isinstance(record, JointExchange):
        timings = record.timings
        queue_ns = sum([timing.queue_ns for timing in timings])
        timing, count = timings[0], len(timings)
    elif record.code:
        counters.fail(record.total_ns)
        return
    else:
        memory_ns = record.context.memory_ns
        if memory_ns >= 0:
            if record.timing is None:
                counters.hit(rows, record.total_ns, memory_ns)
                return
            counters.miss(memory_ns)
        timing, count = record.timing or _ALONE, 1
        queue_ns = timing.queue_ns
    if not joins:
        timing = Timing(0, timing.preprocess_ns, timing.run_ns, timing.postprocess_ns)
    counters.succeed(count, rows, record.total_ns, queue_ns, timing)
