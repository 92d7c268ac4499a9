"""Request ids that sort by time and cannot be made up.

Layout of the 20 bytes, shown as 40 hexadecimal digits: 48-bit Unix milliseconds, 16-bit process
number, 32-bit counter, 64-bit tag. The tag lets feedback be joined to an answer later without
trusting whoever sends it. Tags are cut from one keyed BLAKE2b digest for eight ids that follow
each other; the digest is over the head of the first of them.

A *sealed* id also says which of an endpoint's variants answered. Its 30 bytes have, before the tag,
a 32-bit version number, a 32-bit weight epoch and a 16-bit place of the routing key; the tag is
XORed with a keyed digest of these and the endpoint's name. As no head is used twice, that is a
Wegman-Carter authenticator (Wegman and Carter 1981): whoever has seen any number of ids can name
another's arm with a chance of 2**-64.
"""

import hmac
import struct
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np

from salver.core.clock import Clock
from salver.core.routing import FULL
from salver.core.seals import (
    ARM,
    COUNTER_MASK,
    DIGEST_BYTES,
    NO_PLACE,
    PER_DIGEST,
    TAG_BYTES,
    ArmSeal,
    masks_of,
)

_HEAD: Final = struct.Struct(">QI")
_ID: Final = np.dtype([("stamp", ">u8"), ("counter", ">u4"), ("tag", "V8")])
_MAX_BLOCK: Final = 256
_MAX_AGE_MS: Final = 16
_PROCESS_MASK: Final = 0xFFFF
_NANOSECONDS_PER_MILLISECOND: Final = 1_000_000
ID_LENGTH: Final = 2 * _ID.itemsize
_SEAL: Final = struct.Struct(">IIH")
SEALED_LENGTH: Final = ID_LENGTH + 2 * _SEAL.size
_MAX_ARMS: Final = 64


class Sealed(NamedTuple):
    """What a sealed id says: when it was made, and which arm of its endpoint answered.

    ``place`` is where the caller's routing key fell, -1 where it had none.
    """

    unix_ms: int
    version: int
    weight_epoch: int
    place: int


class RequestIds:
    """Makes and checks request ids for one process.

    ``key`` is at most 64 secret bytes shared by all processes of one installation. Ids are made in
    blocks, which grow while all of a block is used within a few milliseconds.
    """

    __slots__ = (
        "_arms",
        "_clock",
        "_counter",
        "_digits",
        "_key",
        "_place",
        "_process",
        "_size",
        "_unix_ms",
    )

    def __init__(self, key: bytes, process: int, clock: Clock) -> None:
        self._key = key
        self._process = process & _PROCESS_MASK
        self._clock = clock
        self._counter = 0
        self._unix_ms = -1
        self._size = PER_DIGEST
        self._digits = ""
        self._place = 0
        self._arms: dict[tuple[str, int, int], ArmSeal] = {}

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
        self._size = min(2 * self._size, _MAX_BLOCK) if is_young else PER_DIGEST
        self._unix_ms = unix_ms
        self._digits = self._block((unix_ms << 16) | self._process, self._size)
        return 0

    def _block(self, stamp: int, size: int) -> str:
        first = self._counter
        if first + size > COUNTER_MASK:
            first = 0
        self._counter = first + size
        block = np.empty(size, _ID)
        block["stamp"] = stamp
        block["counter"] = np.arange(first, first + size)
        digests = [self._tags(stamp, one) for one in range(first, first + size, PER_DIGEST)]
        block["tag"] = np.frombuffer(b"".join(digests), "V8")
        return block.tobytes().hex()

    def _tags(self, stamp: int, first: int) -> bytes:
        head = _HEAD.pack(stamp, first)
        return blake2b(head, digest_size=DIGEST_BYTES, key=self._key).digest()

    def verify(self, request_id: str) -> bool:
        """Tell whether this installation made the id; any malformed text is False.

        Those that are sealed are checked with ``unseal``, since that takes the endpoint's name.
        """
        raw = _raw(request_id, ID_LENGTH)
        return raw is not None and hmac.compare_digest(raw[_HEAD.size :], self._tag(raw))

    def made_unix_ms(self, request_id: str) -> int:
        """Return when a genuine id was made."""
        return int(request_id[:12], 16)

    def arm(self, endpoint: str, version: int, epoch: int) -> "ArmSeal":
        """Return what seals ids with one arm."""
        name = (endpoint, version, epoch)
        seal = self._arms.get(name)
        if seal is None:
            if len(self._arms) >= _MAX_ARMS:
                self._arms.clear()
            seal = self._arms[name] = ArmSeal(self._key, endpoint, version, epoch)
        return seal

    def seal(self, request_id: str, endpoint: str, version: int, epoch: int, place: int) -> str:
        """Return an id of this installation with the arm that answers."""
        return self.arm(endpoint, version, epoch)(request_id, place)

    def unseal(self, request_id: str, endpoint: str) -> Sealed | None:
        """Return what a sealed id of an endpoint says.

        None for what this installation has not made, has made for another endpoint, or not sealed.
        """
        raw = _raw(request_id, SEALED_LENGTH)
        if raw is None:
            return None
        version, epoch, place = _SEAL.unpack_from(raw, _HEAD.size)
        place = -1 if place == NO_PLACE else place
        if place >= FULL:
            return None
        # Nothing is kept for an arm that anybody can name.
        arm = raw[_HEAD.size : _HEAD.size + ARM.size]
        mask = masks_of(self._key, arm, endpoint.encode(), place)[place % PER_DIGEST]
        expected = int.from_bytes(self._tag(raw), "big") ^ mask
        if not hmac.compare_digest(raw[-TAG_BYTES:], expected.to_bytes(TAG_BYTES, "big")):
            return None
        stamp, _ = _HEAD.unpack_from(raw)
        return Sealed(stamp >> 16, version, epoch, place)

    def _tag(self, raw: bytes) -> bytes:
        """Return the tag that belongs to the head of an id."""
        stamp, counter = _HEAD.unpack_from(raw)
        place = counter % PER_DIGEST
        digest = self._tags(stamp, counter - place)
        return digest[place * TAG_BYTES : (place + 1) * TAG_BYTES]


def _raw(request_id: str, length: int) -> bytes | None:
    """Return the bytes of an id of this length, None for any other text."""
    if len(request_id) != length:
        return None
    try:
        raw = bytes.fromhex(request_id)
    except ValueError:
        return None
    # Digits may have white space between them.
    return raw if 2 * len(raw) == length else None
