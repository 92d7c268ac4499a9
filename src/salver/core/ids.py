"""Request ids that sort by time and cannot be made up.

Layout of the 20 bytes, shown as 40 hexadecimal digits: 48-bit Unix milliseconds, 16-bit process
number, 32-bit counter, 64-bit tag. The tag lets feedback be joined to an answer later without
trusting whoever sends it. Tags are cut from one keyed BLAKE2b digest for eight ids that follow
each other; the digest is over the head of the first of them.
"""

import hmac
import struct
from hashlib import blake2b

import numpy as np

from salver.core.clock import Clock

_HEAD = struct.Struct(">QI")
_ID = np.dtype([("stamp", ">u8"), ("counter", ">u4"), ("tag", "V8")])
_TAG_BYTES = 8
_PER_DIGEST = 8
_DIGEST_BYTES = _PER_DIGEST * _TAG_BYTES
_MAX_BLOCK = 256
_MAX_AGE_MS = 16
_COUNTER_MASK = 0xFFFFFFFF
_PROCESS_MASK = 0xFFFF
_NANOSECONDS_PER_MILLISECOND = 1_000_000
ID_LENGTH = 2 * _ID.itemsize


class RequestIds:
    """Makes and checks request ids for one process.

    ``key`` is at most 64 secret bytes shared by all processes of one installation. Ids are made in
    blocks, which grow while all of a block is used within a few milliseconds.
    """

    __slots__ = ("_clock", "_counter", "_digits", "_key", "_place", "_process", "_size", "_unix_ms")

    def __init__(self, key: bytes, process: int, clock: Clock) -> None:
        self._key = key
        self._process = process & _PROCESS_MASK
        self._clock = clock
        self._counter = 0
        self._unix_ms = -1
        self._size = _PER_DIGEST
        self._digits = ""
        self._place = 0

    def make(self) -> str:
        """Return a fresh id."""
        place = self._fresh(self._clock.unix_ns() // _NANOSECONDS_PER_MILLISECOND)
        self._place = end = place + ID_LENGTH
        return self._digits[place:end]

    def make_many(self, count: int) -> list[str]:
        """Return fresh ids, as ``make`` does one by one."""
        unix_ms = self._clock.unix_ns() // _NANOSECONDS_PER_MILLISECOND
        ids: list[str] = []
        while (missing := count - len(ids)) > 0:
            start = self._fresh(unix_ms)
            digits = self._digits
            self._place = end = min(start + missing * ID_LENGTH, len(digits))
            ids += [digits[place : place + ID_LENGTH] for place in range(start, end, ID_LENGTH)]
        return ids

    def _fresh(self, unix_ms: int) -> int:
        """Return where the next id begins, in a new block when this one is used up or old."""
        place, age_ms = self._place, unix_ms - self._unix_ms
        is_young = 0 <= age_ms < _MAX_AGE_MS
        if place < len(self._digits) and is_young:
            return place
        self._size = min(2 * self._size, _MAX_BLOCK) if is_young else _PER_DIGEST
        self._unix_ms = unix_ms
        self._digits = self._block((unix_ms << 16) | self._process, self._size)
        return 0

    def _block(self, stamp: int, size: int) -> str:
        first = self._counter
        if first + size > _COUNTER_MASK:
            first = 0
        self._counter = first + size
        block = np.empty(size, _ID)
        block["stamp"] = stamp
        block["counter"] = np.arange(first, first + size)
        digests = [self._tags(stamp, one) for one in range(first, first + size, _PER_DIGEST)]
        block["tag"] = np.frombuffer(b"".join(digests), "V8")
        return block.tobytes().hex()

    def _tags(self, stamp: int, first: int) -> bytes:
        head = _HEAD.pack(stamp, first)
        return blake2b(head, digest_size=_DIGEST_BYTES, key=self._key).digest()

    def verify(self, request_id: str) -> bool:
        """Tell whether this installation made the id; any malformed text is False."""
        if len(request_id) != ID_LENGTH:
            return False
        try:
            raw = bytes.fromhex(request_id)
        except ValueError:
            return False
        if len(raw) != _ID.itemsize:
            return False
        stamp, counter = _HEAD.unpack_from(raw)
        place = counter % _PER_DIGEST
        digest = self._tags(stamp, counter - place)
        expected = digest[place * _TAG_BYTES : (place + 1) * _TAG_BYTES]
        return hmac.compare_digest(raw[_HEAD.size :], expected)
