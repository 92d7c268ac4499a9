"""The record of one finished request, and the bounded ring that observers drain."""

from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from salver.core.context import RequestContext
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse
from salver.core.timing import Timing


class Exchange(msgspec.Struct, eq=False):
    """One request and what became of it; ``code`` is empty for success.

    ``context`` says who asked and which variant answered. ``request`` and ``response`` are kept
    only when somebody captures payloads. ``rows`` is what the request counts for in a batch.
    """

    context: RequestContext
    endpoint: str
    protocol: str
    code: str
    total_ns: int
    timing: Timing | None
    request: InferenceRequest | None = None
    response: InferenceResponse | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    rows: int = 1

    @property
    def held_bytes(self) -> int:
        """Memory that keeping this record pins, roughly."""
        held = _RECORD_BYTES
        if self.request is not None:
            held += self.request_bytes
        if self.response is not None:
            held += self.response_bytes
        return held


def keep_answer(exchange: Exchange, response: InferenceResponse) -> None:
    """Keep an answer in the record of its exchange, unless it is large."""
    size = sum([tensor.size_bytes for tensor in response.outputs])
    if size <= _MAX_KEPT_ANSWER_BYTES:
        exchange.response, exchange.response_bytes = response, size


class JointExchange(msgspec.Struct, eq=False):
    """Requests of one cohort that were answered together, all of them well.

    ``context`` is common to them and has no ids; ``timings`` are in the order of ``request_ids``,
    and differ in the time in the queue only, as they are of one batch. ``rows`` is of each request.
    ``response`` is kept only when somebody looks at answers; it is that of these requests.
    """

    context: RequestContext
    endpoint: str
    protocol: str
    total_ns: int
    request_ids: list[str]
    timings: list[Timing]
    rows: int = 1
    response: JointResponse | None = None

    @property
    def held_bytes(self) -> int:
        """Memory that keeping this record pins, roughly."""
        held = _RECORD_BYTES * len(self.request_ids)
        if self.response is not None:
            held += sum([tensor.size_bytes for tensor in self.response.outputs])
        return held

    def __len__(self) -> int:
        """Count the requests."""
        return len(self.request_ids)

    def each(self) -> Iterator[Exchange]:
        """Yield the record of each request."""
        for request_id, timing in zip(self.request_ids, self.timings, strict=True):
            context = msgspec.structs.replace(self.context, request_id=request_id)
            yield Exchange(
                context,
                self.endpoint,
                self.protocol,
                "",
                self.total_ns,
                timing,
                rows=self.rows,
            )


_RECORD_BYTES = 512
_MAX_KEPT_ANSWER_BYTES = 64 * 1024
_BATCH = 512

Record = Exchange | JointExchange
Subscriber = Callable[[list[Record]], None]


class ExchangeRing:
    """Exchanges on their way to the observers, bounded in bytes.

    ``append`` is called on the request path and does no more than store. ``drain`` hands
    everything to the subscribers in batches. ``drain_soon`` is called when many have come, so that
    they are handed on while they are in the processor's cache. When the bound is reached the
    payloads of the newcomer are let go first, then the ring drains itself; counts are never lost.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.dropped_payloads = 0
        self.drain_soon: Callable[[], object] | None = None
        self._items: deque[Record] = deque()
        self._count = 0
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        """Add an observer; it gets every batch drained from now on."""
        self._subscribers.append(subscriber)

    def append(self, exchange: Exchange) -> None:
        """Store one finished exchange; drains first when only records are left to let go."""
        size = _RECORD_BYTES
        if exchange.request is not None or exchange.response is not None:
            size = exchange.held_bytes
        if self.held_bytes + size > self.max_bytes:
            if exchange.request is not None or exchange.response is not None:
                exchange.request = exchange.response = None
                self.dropped_payloads += 1
                size = _RECORD_BYTES
            if self.held_bytes + size > self.max_bytes:
                self.drain()
        self._store(exchange, size, 1)

    def append_joint(self, exchange: JointExchange) -> None:
        """Store those of a cohort; drains first when there is no room for them."""
        count, size = len(exchange), exchange.held_bytes
        if self.held_bytes + size > self.max_bytes and exchange.response is not None:
            exchange.response = None
            self.dropped_payloads += 1
            size = exchange.held_bytes
        if self.held_bytes + size > self.max_bytes:
            self.drain()
        self._store(exchange, size, count)

    def _store(self, record: Record, size_bytes: int, count: int) -> None:
        self.held_bytes += size_bytes
        self._items.append(record)
        before, self._count = self._count, self._count + count
        if before < _BATCH <= self._count and self.drain_soon is not None:
            self.drain_soon()

    def drain(self) -> int:
        """Hand everything stored to each subscriber; returns how many exchanges that was."""
        if not self._items:
            return 0
        batch, count = list(self._items), self._count
        self._items.clear()
        self.held_bytes = self._count = 0
        for subscriber in self._subscribers:
            subscriber(batch)
        return count
