"""One lifecycle for everything that holds resources.

Constructors only store what they are given. The order is ``provision`` (acquire, may fail),
``validate`` (check without side effects), ``start`` (begin to act), ``drain`` (finish what was
accepted, accept nothing new), ``stop`` (release; safe after any earlier step and when repeated).
A reload provisions the new, swaps, then drains the old; a failed provision leaves the old serving.
"""

from typing import Protocol


class Component(Protocol):
    """What the composition root drives."""

    async def provision(self) -> None:
        """Acquire what is needed; raise a domain error when it cannot be had."""
        ...

    async def validate(self) -> None:
        """Raise a domain error when what was acquired cannot work together."""
        ...

    async def start(self) -> None:
        """Begin to act."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing new and finish what was accepted, for at most ``timeout_s``."""
        ...

    async def stop(self) -> None:
        """Release everything."""
        ...
