"""What becomes of one attempt to tell a webhook something."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from salver.core.webhooks import HOSTS_SETTING
from salver.registry.records import Delivery

OK, NO, FAILED = "ok", "no", "failed"


class Attempt(NamedTuple):
    """What became of it: ok, no (it will not do to ask again), or failed.

    ``status`` is the answer's, 0 without one. ``wait_s`` is how long it wants to be left alone.
    """

    outcome: str
    status: int = 0
    reason: str = ""
    wait_s: float = 0.0


Send = Callable[[Delivery], Awaitable[Attempt]]


async def to_nobody(item: Delivery) -> Attempt:
    """Tell nobody anything, as where no hosts are allowed."""
    return Attempt(
        NO, reason=f"webhook {item.webhook.name!r} calls a host, and {HOSTS_SETTING} is empty"
    )
