"""Request ids that sort by time and cannot be made up.

Layout of the 20 bytes, shown as 40 hexadecimal digits: 48-bit Unix milliseconds, 16-bit process
number, 32-bit counter, 64-bit tag. The tag lets feedback be joined to an answer later without
trusting whoever sends it. Tags are cut from one keyed BLAKE2b digest for eight ids that follow
each other within a few milliseconds; the digest is over the head of the first of them.
"""

import hmac
import struct
from hashlib import blake2b

from salver.core.clock import Clock

_HEAD = struct.Struct(">QI")
_TAG_BYTES = 8
_PER_DIGEST = 8
_TAG_DIGITS = 2 * _TAG_BYTES
# Both backwards, since ids are taken from the end of a list.
_DIGITS = {0: "76543210", 8: "fedcba98"}
_TAG_STARTS = range((_PER_DIGEST - 1) * _TAG_DIGITS, -1, -_TAG_DIGITS)
_MAX_AGE_MS = 16
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
        ready = self._ready
        if ready and 0 <= unix_ms - self._unix_ms < _MAX_AGE_MS:
            return ready.pop()
        self._unix_ms = unix_ms
        self._ready = ready = self._block((unix_ms << 16) | self._process)
        return ready.pop()

    def make_many(self, count: int) -> list[str]:
        """Return fresh ids, as ``make`` does one by one."""
        ids = [self.make()]
        while len(ids) < count:
            ready = self._ready
            if not ready:
                self._ready = ready = self._block((self._unix_ms << 16) | self._process)
            taken = ready[: -(count - len(ids)) - 1 : -1]
            del ready[len(ready) - len(taken) :]
            ids += taken
        return ids

    def _block(self, stamp: int) -> list[str]:
        first = self._counter
        self._counter = (first + _PER_DIGEST) & _COUNTER_MASK
        tags = self._tags(stamp, first)
        # The eight counters differ in their last digit only.
        head, digits = f"{stamp:016x}{first >> 4:07x}", _DIGITS[first & 0xF]
        return [
            head + digit + tags[start : start + _TAG_DIGITS]
            for digit, start in zip(digits, _TAG_STARTS, strict=True)
        ]

    def _tags(self, stamp: int, first: int) -> str:
        head, size_bytes = _HEAD.pack(stamp, first), _PER_DIGEST * _TAG_BYTES
        return blake2b(head, digest_size=size_bytes, key=self._key).hexdigest()

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
        digest = bytes.fromhex(self._tags(stamp, counter - place))
        expected = digest[place * _TAG_BYTES : (place + 1) * _TAG_BYTES]
        return hmac.compare_digest(raw[_HEAD.size :], expected)
