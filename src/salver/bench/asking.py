"""One gRPC call at a time, whose refusal is told in full: before the load, and for cold starts."""

import asyncio
from types import TracebackType
from typing import Self

import numpy as np

from salver.bench.channels import Channels
from salver.bench.heads import Heads
from salver.bench.message import named
from salver.bench.record import OK, TIMEOUT, Record
from salver.bench.refusals import error_of
from salver.bench.target import Target
from salver.core.clock import Clock, SystemClock
from salver.core.errors import DeadlineExceeded, NotReady, SalverError

_TICK_S = 0.1


class Asker:
    """Calls over one connection in an event loop of its own; a context manager."""

    def __init__(
        self, target: Target, api_key: str, timeout_s: float, clock: Clock | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._heads = Heads(target, api_key)
        self._target = target
        self._timeout_s = timeout_s
        self._runner = asyncio.Runner()
        self._channels: Channels | None = None

    def __enter__(self) -> Self:
        """Connect; raises ``NotReady``, ``UnsupportedOperation`` or ``InvalidSettings``."""
        self._heads.check()
        self._channels = Channels(
            self._target,
            self._heads,
            self._clock,
            limit=1,
            streams=1,
            timeout_s=self._timeout_s,
        )
        self._runner.__enter__()
        try:
            self._runner.run(self._channels.open(1))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        self._close()

    def ask(self, endpoint: str, inputs: bytes) -> SalverError | None:
        """Ask an endpoint; return None when it answered right, else what it refused with."""
        return self._runner.run(self._ask(named(endpoint, inputs)))

    async def _ask(self, request: bytes) -> SalverError | None:
        channels = self._channels
        assert channels is not None
        ended = asyncio.Event()
        channels.drained, channels.refusal = ended.set, None
        record = Record(np.zeros(1, np.int64), self._clock.monotonic_ns())
        channel = channels.take()
        assert channel is not None
        channel.send(record, 0, request)
        while not ended.is_set():
            try:
                async with asyncio.timeout(_TICK_S):
                    await ended.wait()
            except TimeoutError:
                channels.give_up_late()
        outcome = record.outcomes[0]
        if outcome == OK:
            return None
        if channels.refusal is not None:
            return error_of(channels.refusal, self._target)
        if outcome == TIMEOUT:
            return DeadlineExceeded(
                f"no answer within {self._timeout_s:g} s; give it more with --timeout or see "
                "'salver logs'"
            )
        return NotReady(f"no answer to a gRPC call ({record.names[outcome]}); see 'salver logs'")

    def _close(self) -> None:
        if self._channels is not None:
            self._runner.run(self._channels.close())
        self._runner.close()
