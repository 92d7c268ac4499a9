"""What all clients of a server have not read yet, and who has to go when it is too much."""

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, TypeVar


class Unread(NamedTuple):
    """What waits for one client, and when it was last seen to take some of it (monotonic)."""

    size_bytes: int
    since_ns: int


class Debtor(Protocol):
    """A connection, as far as it is asked for what waits for its client."""

    def unread(self, now_ns: int) -> Unread:
        """Return what waits for the client."""
        ...


D = TypeVar("D", bound=Debtor)


class Arrears:
    """Bounds what waits for all clients together: ``limit_bytes``, with 0 anything.

    ``look`` is called soon after large answers of a part of that were made. It is to close those
    that ``excess`` returns, as are sweeps of the server, for the sake of small answers.
    """

    def __init__(self, limit_bytes: int, look: Callable[[], None]) -> None:
        self._limit_bytes = limit_bytes
        self._look = look
        self._grown_bytes = 0
        self._is_due = False

    def grew(self, size_bytes: int) -> None:
        """Take note of a large answer that was made, read or not."""
        self._grown_bytes += size_bytes
        if self._grown_bytes * 8 > self._limit_bytes > 0 and not self._is_due:
            # Whoever has made it may be in the middle of its work.
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._due)

    def _due(self) -> None:
        self._is_due, self._grown_bytes = False, 0
        self._look()

    def excess(self, debtors: Iterable[D], now_ns: int) -> list[D]:
        """Return whom to close, so that what waits for the others is within the limit.

        Who has taken nothing for longest goes first, of several the one that most waits for.
        """
        if not self._limit_bytes:
            return []
        found = [(one.unread(now_ns), one) for one in debtors]
        left_bytes = sum([unread.size_bytes for unread, _ in found])
        if left_bytes <= self._limit_bytes:
            return []
        owing = [(unread, one) for unread, one in found if unread.size_bytes]
        owing.sort(key=lambda pair: (pair[0].since_ns, -pair[0].size_bytes))
        closed: list[D] = []
        for unread, one in owing:
            if left_bytes <= self._limit_bytes:
                break
            left_bytes -= unread.size_bytes
            closed.append(one)
        return closed
