"""The open loop: every request is sent when it is due, whatever became of those before it."""

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from salver.bench.carrier import Carrier
from salver.bench.pacer import LoopPacer, Pacer, kernel_pacer
from salver.bench.record import LATE, NO_CONNECTION, PENDING, Record
from salver.bench.schedule import Times
from salver.core.clock import Clock, SystemClock

LEAST_LATE_LIMIT_S = 1.0
_SENT_PER_TURN = 64
_TICK_S = 0.1
_HEAD_START_NS = 2_000_000


@dataclass(frozen=True, slots=True)
class Run:
    """One run's record, the generator's own cost, and whether it was stopped before its end.

    ``first`` is the first request after the warm-up; ``cpu_ns`` of this process and ``wall_ns``
    count from there.
    """

    record: Record
    first: int
    count: int
    cpu_ns: int
    wall_ns: int


class OpenLoop:
    """Sends the requests of one run; an instance serves one run at a time."""

    def __init__(
        self,
        carrier: Carrier,
        clock: Clock,
        *,
        precise: bool = True,
        late_limit_s: float = LEAST_LATE_LIMIT_S,
    ) -> None:
        self._carrier = carrier
        self._clock = clock
        self._late_limit_ns = round(late_limit_s * 1e9)
        self._precise = precise and isinstance(clock, SystemClock)
        self._requests: Sequence[bytes] = ()
        self._order = array("q")
        self._record: Record | None = None
        self._pacer: Pacer | None = None
        self._next = self._count = self._first = 0
        self._cpu_ns = self._measured_from_ns = 0
        self._finished: asyncio.Event | None = None
        self._stopped = False

    async def run(
        self,
        times: Times,
        requests: Sequence[bytes],
        first: int = 0,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Run:
        """Send a request at each time, wait for the last answer, and return what happened.

        ``requests`` are taken in an order drawn from ``seed``. ``progress`` is told now and then
        how many were due and how many have ended.
        """
        self._requests = requests
        order = np.random.default_rng(seed).integers(0, len(requests), len(times))
        self._order = array("q", order.astype(np.int64).tobytes())
        record = self._begin(times, first)
        self._pacer = pacer = self._make_pacer()
        try:
            self._send_due()
            await self._wait(record, progress)
        finally:
            pacer.stop()
            self._carrier.drained = None
        cpu_ns = time.process_time_ns() - self._cpu_ns
        wall_ns = self._clock.monotonic_ns() - self._measured_from_ns
        return Run(record, min(first, self._count), self._count, cpu_ns, wall_ns)

    def stop(self) -> None:
        """Send nothing more; the run ends with what has happened so far."""
        self._stopped = True
        if self._finished is not None:
            self._count = self._next
            self._finished.set()

    def _begin(self, times: Times, first: int) -> Record:
        self._next, self._count, self._first = 0, len(times), first
        self._cpu_ns = time.process_time_ns()
        start_ns = self._clock.monotonic_ns() + _HEAD_START_NS
        self._measured_from_ns = start_ns
        self._record = Record(times, start_ns)
        self._finished = asyncio.Event()
        self._carrier.drained = self._drained
        if self._stopped:
            self.stop()
        return self._record

    def _make_pacer(self) -> Pacer:
        pacer: Pacer | None = kernel_pacer() if self._precise else None
        pacer = pacer or LoopPacer(self._clock)
        pacer.start(self._send_due)
        return pacer

    async def _wait(self, record: Record, progress: Callable[[int, int], None] | None) -> None:
        assert self._finished is not None
        while not self._finished.is_set():
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._finished.wait()
            except TimeoutError:
                self._carrier.give_up_late()
            if progress is not None:
                progress(self._next, record.ended)

    def _drained(self) -> None:
        if self._next >= self._count and self._finished is not None:
            self._finished.set()

    def _send_due(self) -> None:
        """Send what is due; after some of it, let the loop read answers first."""
        record, pacer = self._record, self._pacer
        assert record is not None
        assert pacer is not None
        clock, due_ns = self._clock, record.due_ns
        for _ in range(_SENT_PER_TURN):
            index = self._next
            if index >= self._count:
                if not self._carrier.in_flight:
                    self._drained()
                return
            if due_ns[index] > clock.monotonic_ns():
                pacer.at(due_ns[index])
                return
            if index == self._first:
                self._cpu_ns = time.process_time_ns()
                self._measured_from_ns = due_ns[index]
                record.bytes_sent = record.bytes_received = 0
            self._next = index + 1
            self._send(record, index, clock.monotonic_ns() - due_ns[index])
        pacer.at(clock.monotonic_ns())

    def _send(self, record: Record, index: int, lag_ns: int) -> None:
        if lag_ns > self._late_limit_ns:
            record.outcomes[index] = LATE
            return
        sender = self._carrier.take()
        if sender is None:
            record.outcomes[index] = NO_CONNECTION
            return
        assert record.outcomes[index] == PENDING
        sender.send(record, index, self._requests[self._order[index]])
