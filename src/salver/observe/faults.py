"""Logs the requests that failed through no fault of their callers, with their ids."""

from salver.core.clock import Clock
from salver.core.errors import ERRORS_BY_CODE, Fault
from salver.core.exchange import Exchange, Record
from salver.observe.logs import get_logger

log = get_logger(__name__)

_PER_SECOND = 20
_SECOND_NS = 1_000_000_000
_OURS = frozenset(
    code for code, error in ERRORS_BY_CODE.items() if error.side in (Fault.MODEL, Fault.PLATFORM)
)


class FaultLog:
    """Subscriber of the exchange ring: a line for each failed request, so many a second.

    What callers or a lack of capacity caused is counted in the metrics and not logged.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def __call__(self, records: list[Record]) -> None:
        """Log those of a batch that failed."""
        for record in records:
            if isinstance(record, Exchange) and record.code in _OURS:
                self._log(record)

    def _log(self, exchange: Exchange) -> None:
        second = self._clock.monotonic_ns() // _SECOND_NS
        if second != self._second:
            left_out, self._left_out = self._left_out, 0
            self._second, self._lines = second, 0
            if left_out:
                log.warning("requests_failed", not_logged=left_out)
        if self._lines >= _PER_SECOND:
            self._left_out += 1
            return
        self._lines += 1
        context = exchange.context
        log.warning(
            "request_failed",
            request_id=context.request_id,
            endpoint=exchange.endpoint,
            variant=context.variant,
            code=exchange.code,
            total_ms=round(exchange.total_ns / 1e6, 3),
        )
