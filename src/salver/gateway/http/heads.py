"""Request heads that were parsed before.

Clients on kept-alive connections send the same bytes again and again, only the body changes. A
head whose bytes were accepted once means the same the next time, so it need not be parsed again.
Off with the setting ``http.remember_heads``; both ways give the same messages.

Who sent a head may follow from the connection instead of its bytes, so what is remembered of a
client with a certificate is for connections with the same subject only.
"""

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import msgspec

from salver.gateway.http.framing import HEAD_END

if TYPE_CHECKING:
    from salver.gateway.http.message import HttpMessage

MAX_HEADS = 1024
MAX_PEERS = 64
MAX_HEAD_BYTES = 2048


class Head(msgspec.Struct, eq=False):
    """What the parser made of a head, whose bytes are ``raw``; ``length`` is that of the body.

    ``reading`` is for the layer above: what it made of the same bytes, and may use again.
    """

    raw: bytes
    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    length: int
    reading: object | None = None


class Heads:
    """A bounded memory of heads, by their bytes."""

    __slots__ = ("__weakref__", "_heads", "_last")

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._last: Head | None = None

    def begun(self, data: bytes) -> Head | None:
        """Return the known head that these bytes begin with."""
        last = self._last
        # Neighbours mostly begin alike, which is seen without looking for the end.
        if last is not None and data.startswith(last.raw):
            return last
        head = self._heads.get(data[: data.find(HEAD_END) + len(HEAD_END)])
        if head is not None:
            self._last = head
        return head

    def forget(self) -> None:
        """Forget all heads."""
        self._heads.clear()
        self._last = None

    def learn(self, data: bytes, message: "HttpMessage") -> None:
        """Keep the head of a request that came in one piece, if it means the same again.

        Not one that ends its connection, or whose answer must say more than others do.
        """
        if message.close or message.keep:
            return
        headers = message.headers
        end = data.find(HEAD_END) + len(HEAD_END)
        plain = b"transfer-encoding" not in headers and b"expect" not in headers
        length = len(message.body)
        if plain and len(data) - end == length and b"upgrade" not in headers:
            self.remember(Head(data[:end], message.method, message.target, headers, length))

    def remember(self, head: Head) -> None:
        """Keep a head, unless it is unusually long; forgets all when there are too many."""
        if len(head.raw) > MAX_HEAD_BYTES:
            return
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        self._heads[head.raw] = head


class PeerHeads:
    """Memories of heads, one for each peer that has a connection.

    Peers over ``MAX_PEERS`` have none, so that many certificates cannot fill the memory.
    """

    def __init__(self) -> None:
        self._open = Heads()
        self._of: WeakValueDictionary[str, Heads] = WeakValueDictionary()

    def forget(self) -> None:
        """Forget the heads of all peers."""
        for heads in (self._open, *self._of.values()):
            heads.forget()

    def of(self, peer: str) -> Heads | None:
        """Return the memory of a peer, "" for clients without a certificate."""
        if not peer:
            return self._open
        heads = self._of.get(peer)
        if heads is None and len(self._of) < MAX_PEERS:
            heads = self._of[peer] = Heads()
        return heads
