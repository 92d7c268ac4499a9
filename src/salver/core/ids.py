"""Request ids that sort by time and cannot be made up.

Layout of the 20 bytes, shown as 40 hexadecimal digits: 48-bit Unix milliseconds, 16-bit process
number, 32-bit counter, 64-bit tag. The tag lets feedback be joined to an answer later without
trusting whoever sends it. Tags are cut from one keyed BLAKE2b digest for eight ids that follow
each other within a millisecond; the digest is over the head of the first of them.
"""

import hmac
import struct
from hashlib import blake2b

from salver.core.clock import Clock

_HEAD = struct.Struct(">QI")
_TAG_BYTES = 8
_PER_DIGEST = 8
_COUNTER_MASK = 0xFFFFFFFF
_PROCESS_MASK = 0xFFFF
_NANOSECONDS_PER_MILLISECOND = 1_000_000
ID_LENGTH = 2 * (_HEAD.size + _TAG_BYTES)


class RequestIds:
    """Makes and checks request ids for one process.

    ``key`` is at most 64 secret bytes shared by all processes of one installation.
    """

    __slots__ = ("_clock", "_counter", "_key", "_process", "_ready", "_unix_ms")

    def __init__(self, key: bytes, process: int, clock: Clock) -> None:
        self._key = key
        self._process = process & _PROCESS_MASK
        self._clock = clock
        self._counter = 0
        self._unix_ms = -1
        self._ready: list[str] = []

    def make(self) -> str:
        """Return a fresh id."""
        unix_ms = self._clock.unix_ns() // _NANOSECONDS_PER_MILLISECOND
        if unix_ms != self._unix_ms or not self._ready:
            self._prepare(unix_ms)
        return self._ready.pop()

    def _prepare(self, unix_ms: int) -> None:
        first = self._counter
        self._counter = (first + _PER_DIGEST) & _COUNTER_MASK
        self._unix_ms = unix_ms
        stamp = (unix_ms << 16) | self._process
        tags = self._tags(_HEAD.pack(stamp, first))
        self._ready = [
            (_HEAD.pack(stamp, first + index) + tags[index]).hex()
            for index in reversed(range(_PER_DIGEST))
        ]

    def _tags(self, first: bytes) -> list[bytes]:
        digest = blake2b(first, digest_size=_PER_DIGEST * _TAG_BYTES, key=self._key).digest()
        return [digest[at : at + _TAG_BYTES] for at in range(0, len(digest), _TAG_BYTES)]

    def verify(self, request_id: str) -> bool:
        """Tell whether this installation made the id; any malformed text is False."""
        if len(request_id) != ID_LENGTH:
            return False
        try:
            raw = bytes.fromhex(request_id)
        except ValueError:
            return False
        if len(raw) * 2 != ID_LENGTH:
            return False
        stamp, counter = _HEAD.unpack_from(raw)
        place = counter % _PER_DIGEST
        expected = self._tags(_HEAD.pack(stamp, counter - place))[place]
        return hmac.compare_digest(raw[_HEAD.size :], expected)
