"""What carries requests: lends out who sends one, and says when the last has ended."""

from collections.abc import Callable
from typing import Protocol

from salver.bench.record import Record

_MAX_CODE = 48


class Sender(Protocol):
    """Has room for one request."""

    def send(self, record: Record, index: int, request: bytes) -> None:
        """Send a request, at once or as soon as the connection stands; its end goes to record."""
        ...


class Carrier(Protocol):
    """Connections to one target, a bounded number of them.

    ``drained`` is called whenever the last request in flight has ended.
    """

    drained: Callable[[], None] | None

    @property
    def in_flight(self) -> int:
        """How many requests have no answer yet."""
        ...

    async def open(self, count: int) -> None:
        """Open connections beforehand; raises ``NotReady`` when the first cannot be."""
        ...

    def take(self) -> Sender | None:
        """Return who sends one request, or None when there is room for none."""
        ...

    def give_up_late(self) -> None:
        """End requests that have waited for longer than the timeout."""
        ...

    async def close(self) -> None:
        """Close everything; what was in flight stays pending in its record."""
        ...


def plain(code: str) -> str:
    """Return a code from a server so that it may stand on a terminal."""
    return "".join(c for c in code[:_MAX_CODE] if c.isascii() and (c.isalnum() or c == "_"))
