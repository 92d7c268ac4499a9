"""A bounded number of HTTP/2 connections over which gRPC calls are spread in turn."""

import asyncio
from collections import deque
from collections.abc import Callable

from salver.bench.channel import Channel
from salver.bench.heads import Fields, Heads
from salver.bench.pool import unreachable
from salver.bench.target import Target
from salver.core.clock import Clock
from salver.core.errors import UnsupportedOperation

_NS_PER_S = 1_000_000_000


class Channels:
    """Connections to one target: each carries up to ``streams`` calls, or what the server allows.

    Calls go to the connections in turn. One that is lost is replaced by the next call.
    ``drained`` is called whenever the last call in flight has ended; ``refusal`` holds the fields
    of the last answer that was a refusal.
    """

    def __init__(
        self,
        target: Target,
        heads: Heads,
        clock: Clock,
        *,
        limit: int,
        streams: int,
        timeout_s: float,
    ) -> None:
        self._target = target
        self._heads = heads
        self._clock = clock
        self._limit = limit
        self._streams = streams
        self.timeout_ns = round(timeout_s * _NS_PER_S)
        self._wanted = 1
        self._channels: dict[Channel, None] = {}
        # Those with room, the one that had a call longest ago first.
        self._roomy: deque[Channel] = deque()
        self._connecting: dict[Channel, asyncio.Task[None]] = {}
        # Those that get no more calls and have some that have not ended.
        self._leaving: dict[Channel, None] = {}
        self._in_flight = 0
        self.drained: Callable[[], None] | None = None
        self.refusal: Fields | None = None
        self.opened = 0

    @property
    def in_flight(self) -> int:
        """How many calls have no answer yet."""
        return self._in_flight

    async def open(self, count: int) -> None:
        """Open connections beforehand, and keep as many.

        Raises ``NotReady`` when one cannot be, and ``UnsupportedOperation`` for a server without
        HTTP/2.
        """
        self._wanted = min(count, self._limit)
        for _ in range(self._wanted):
            channel = self._add()
            try:
                async with asyncio.timeout(self.timeout_ns / _NS_PER_S):
                    await self._connect(channel)
                    await channel.standing.wait()
            except OSError as error:
                raise unreachable(self._target, str(error) or "it says nothing") from error
            if channel.fault:
                raise UnsupportedOperation(
                    f"{self._target.authority} does not speak gRPC ({channel.fault}); name a port "
                    "of Salver's with --url, or take --protocol rest"
                )

    def take(self) -> Channel | None:
        """Return a connection with room for a call, or None when all are full."""
        count = len(self._channels)
        if count < self._limit and (count < self._wanted or not self._roomy):
            self._connecting_later(self._add())
        while self._roomy:
            channel = self._roomy.popleft()
            # The server may have allowed less than was hoped for.
            if channel.in_flight < channel.streams:
                break
            channel.roomy = False
        else:
            return None
        self._in_flight += 1
        if channel.in_flight + 1 < channel.streams:
            self._roomy.append(channel)
        else:
            channel.roomy = False
        return channel

    def ended(self, channel: Channel) -> None:
        """Take note that a call has ended."""
        self._in_flight -= 1
        if channel.retired:
            if not channel.in_flight:
                self._leaving.pop(channel, None)
        elif not channel.roomy:
            channel.roomy = True
            self._roomy.append(channel)
        if not self._in_flight and self.drained is not None:
            self.drained()

    def refused(self, fields: Fields) -> None:
        """Keep what the last refusal said."""
        self.refusal = fields

    def retired(self, channel: Channel) -> None:
        """Give a connection no more calls."""
        self._channels.pop(channel, None)
        if channel.in_flight:
            self._leaving[channel] = None
        if channel.roomy:
            channel.roomy = False
            self._roomy.remove(channel)

    def give_up_late(self) -> None:
        """End calls that have waited for longer than the timeout."""
        oldest_ns = self._clock.monotonic_ns() - self.timeout_ns
        for channel in (*self._channels, *self._leaving):
            channel.give_up_late(oldest_ns)

    async def close(self) -> None:
        """Close everything; what was in flight stays pending in its record."""
        connecting = list(self._connecting.values())
        channels = (*self._channels, *self._leaving)
        for channel in channels:
            channel.forget()
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        for channel in channels:
            channel.abort()
        # The loop closes the sockets in its next turns.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _add(self) -> Channel:
        channel = Channel(self, self._heads, self._clock, self._streams)
        self._channels[channel] = None
        self._roomy.append(channel)
        return channel

    def _connecting_later(self, channel: Channel) -> None:
        self._connecting[channel] = asyncio.get_running_loop().create_task(
            self._connect_later(channel)
        )

    async def _connect_later(self, channel: Channel) -> None:
        try:
            await self._connect(channel)
        except OSError:
            channel.connect_failed()
        finally:
            del self._connecting[channel]

    async def _connect(self, channel: Channel) -> None:
        target = self._target
        server_hostname = target.host if target.tls is not None else None
        await asyncio.get_running_loop().create_connection(
            lambda: channel,
            target.address,
            target.port,
            ssl=target.tls,
            server_hostname=server_hostname,
        )
        self.opened += 1
