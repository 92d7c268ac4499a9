"""Request ids that sort by time and cannot be made up.

Layout of the 20 bytes, shown as 40 hexadecimal digits: 48-bit Unix milliseconds, 16-bit process
number, 32-bit counter, 64-bit keyed BLAKE2b tag over those twelve bytes. The tag lets feedback
be joined to an answer later without trusting whoever sends it.
"""

import hmac
import struct
from hashlib import blake2b

from salver.core.clock import Clock

_HEAD = struct.Struct(">QI")
_TAG_BYTES = 8
_COUNTER_MASK = 0xFFFFFFFF
_PROCESS_MASK = 0xFFFF
ID_LENGTH = 2 * (_HEAD.size + _TAG_BYTES)


class RequestIds:
    """Makes and checks request ids for one process.

    ``key`` is at most 64 secret bytes shared by all processes of one installation.
    """

    __slots__ = ("_clock", "_counter", "_key", "_process")

    def __init__(self, key: bytes, process: int, clock: Clock) -> None:
        self._key = key
        self._process = process & _PROCESS_MASK
        self._clock = clock
        self._counter = 0

    def make(self) -> str:
        """Return a fresh id."""
        self._counter = counter = (self._counter + 1) & _COUNTER_MASK
        unix_ms = self._clock.unix_ns() // 1_000_000
        head = _HEAD.pack((unix_ms << 16) | self._process, counter)
        return (head + blake2b(head, digest_size=_TAG_BYTES, key=self._key).digest()).hex()

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
        head, tag = raw[: _HEAD.size], raw[_HEAD.size :]
        expected = blake2b(head, digest_size=_TAG_BYTES, key=self._key).digest()
        return hmac.compare_digest(tag, expected)
