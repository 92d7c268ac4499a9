"""Request heads that were parsed before.

Clients on kept-alive connections send the same bytes again and again, only the body changes. A
head whose bytes were accepted once means the same the next time, so it need not be parsed again.
Off with the setting ``http.remember_heads``; both ways give the same messages.
"""

import msgspec

MAX_HEADS = 1024
MAX_HEAD_BYTES = 2048


class Head(msgspec.Struct, eq=False):
    """What the parser made of a head; ``length`` is that of the body.

    ``reading`` is for the layer above: what it made of the same bytes, and may use again.
    """

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    length: int
    reading: object | None = None


class Heads:
    """A bounded memory of heads, by their bytes."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def get(self, head: bytes) -> Head | None:
        """Return what these bytes meant before."""
        return self._heads.get(head)

    def remember(self, head: bytes, parsed: Head) -> None:
        """Keep a head, unless it is unusually long; forgets all when there are too many."""
        if len(head) > MAX_HEAD_BYTES:
            return
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        self._heads[head] = parsed
