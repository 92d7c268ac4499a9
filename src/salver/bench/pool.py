"""A bounded number of connections; a request that finds none free is told so at once."""

import asyncio
import resource
from collections import deque
from collections.abc import Callable

from salver.bench.connection import Connection
from salver.bench.target import Target
from salver.core.clock import Clock
from salver.core.errors import InvalidSettings, NotReady

MAX_CONNECTIONS = 16_384
_SPARE_FILES = 64
_NS_PER_S = 1_000_000_000


def allow_files(connections: int) -> None:
    """Raise this process's limit of open files as far as needed.

    Raises ``InvalidSettings`` where the hard limit is below.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise InvalidSettings(
            f"{connections} connections need {wanted} open files, {hard} are allowed here; take "
            "fewer --connections or raise 'ulimit -n'"
        )
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def unreachable(target: Target, error: object) -> NotReady:
    """Return the error of a server to which no connection can be opened."""
    return NotReady(
        f"no connection to {target.authority} ({error}); start the server with 'salver up', or "
        "name its address or --home"
    )


class Pool:
    """Connections to one target: opened when one is needed, kept alive, used in turn.

    ``drained`` is called whenever the last request in flight has ended.
    """

    def __init__(self, target: Target, limit: int, timeout_s: float, clock: Clock) -> None:
        self._target = target
        self._limit = limit
        self._timeout_ns = round(timeout_s * _NS_PER_S)
        self._clock = clock
        self._idle: deque[Connection] = deque()
        # In the order in which they were sent, so that the oldest is looked at first.
        self._busy: dict[Connection, None] = {}
        self._connecting: dict[Connection, asyncio.Task[None]] = {}
        self.drained: Callable[[], None] | None = None
        self.opened = 0

    @property
    def in_flight(self) -> int:
        """How many requests have no answer yet."""
        return len(self._busy)

    async def open(self, count: int) -> None:
        """Open connections beforehand; raises ``NotReady`` when the first cannot be."""
        for _ in range(min(count, self._limit)):
            connection = Connection(self, self._clock)
            try:
                await self._connect(connection)
            except OSError as error:
                raise unreachable(self._target, error) from error
            self._idle.append(connection)

    def take(self) -> Connection | None:
        """Return a connection for one request, or None when all are in use."""
        if self._idle:
            connection = self._idle.popleft()
        elif len(self._busy) < self._limit:
            connection = Connection(self, self._clock)
            self._connecting[connection] = asyncio.get_running_loop().create_task(
                self._connect_later(connection)
            )
        else:
            return None
        self._busy[connection] = None
        return connection

    def released(self, connection: Connection, *, reusable: bool) -> None:
        """Take a connection back."""
        self._busy.pop(connection, None)
        if reusable:
            self._idle.append(connection)
        elif connection in self._connecting:
            self._connecting[connection].cancel()
        if not self._busy and self.drained is not None:
            self.drained()

    def closed(self, connection: Connection) -> None:
        """Forget a connection that the server closed while it was idle."""
        if connection in self._idle:
            self._idle.remove(connection)

    def give_up_late(self) -> None:
        """End requests that have waited for longer than the timeout."""
        oldest_ns = self._clock.monotonic_ns() - self._timeout_ns
        for connection in list(self._busy):
            if connection.sent_ns > oldest_ns:
                return
            connection.give_up()

    async def close(self) -> None:
        """Close everything; what was in flight stays pending in its record."""
        for connection in self._busy:
            connection.forget()
        connecting = list(self._connecting.values())
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        for connection in (*self._idle, *self._busy):
            connection.abort()
        # The loop closes the sockets in its next turns.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _connect_later(self, connection: Connection) -> None:
        try:
            await self._connect(connection)
        except OSError:
            connection.connect_failed()
        finally:
            del self._connecting[connection]

    async def _connect(self, connection: Connection) -> None:
        target = self._target
        server_hostname = target.host if target.tls is not None else None
        await asyncio.get_running_loop().create_connection(
            lambda: connection,
            target.address,
            target.port,
            ssl=target.tls,
            server_hostname=server_hostname,
        )
        self.opened += 1
