"""What an id says of the variant that answered, and what hides it; see ``core.ids``."""

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from salver.core.routing import FULL

PER_DIGEST: Final = 8
"""Tags and masks that are cut from one digest."""
TAG_BYTES: Final = 8
DIGEST_BYTES: Final = PER_DIGEST * TAG_BYTES
COUNTER_MASK: Final = 0xFFFFFFFF
ARM: Final = struct.Struct(">II")
NO_PLACE: Final = 0xFFFF
_MASKS: Final = struct.Struct(f">{PER_DIGEST}Q")
_HEAD_LENGTH: Final = 24
_TAIL_BYTES: Final = 2 + TAG_BYTES
_TAG_BITS: Final = 8 * TAG_BYTES


class ArmSeal:
    """Seals ids with one arm: a version of an endpoint in a weight epoch.

    ``place`` is in ``[0, 10000)``, or -1 for none. Masks come eight at a time from a keyed digest,
    as places mostly do.
    """

    __slots__ = ("_arm", "_digits", "_endpoint", "_key", "_masks")

    def __init__(self, key: bytes, endpoint: str, version: int, epoch: int) -> None:
        self._key = key
        self._endpoint = endpoint.encode()
        self._arm = ARM.pack(version & COUNTER_MASK, epoch & COUNTER_MASK)
        self._digits = self._arm.hex()
        self._masks: list[int | None] = [None] * (FULL + 2 * PER_DIGEST)

    def __call__(self, request_id: str, place: int) -> str:
        """Return an id with the arm, and the place that decided for it."""
        mask = self._masks[place + PER_DIGEST]
        if mask is None:
            mask = self.mask(place)
        tail = int(request_id[_HEAD_LENGTH:], 16) ^ mask
        # Three times as fast as formatting a number of this size.
        return request_id[:_HEAD_LENGTH] + self._digits + tail.to_bytes(_TAIL_BYTES, "big").hex()

    def all(self, request_ids: Sequence[str], places: Sequence[int]) -> list[str]:
        """Return what sealing one after the other gives."""
        masks, digits, cut, size = self._masks, self._digits, _HEAD_LENGTH, _TAIL_BYTES
        found = []
        for request_id, place in zip(request_ids, places, strict=True):
            mask = masks[place + PER_DIGEST]
            if mask is None:
                mask = self.mask(place)
            tail = int(request_id[cut:], 16) ^ mask
            found.append(request_id[:cut] + digits + tail.to_bytes(size, "big").hex())
        return found

    def mask(self, place: int) -> int:
        """Return what hides the tag of an id with this place, and the place before it."""
        first = place // PER_DIGEST * PER_DIGEST
        for index, mask in enumerate(masks_of(self._key, self._arm, self._endpoint, place)):
            known = first + index
            self._masks[known + PER_DIGEST] = (known & NO_PLACE) << _TAG_BITS | mask
        found = self._masks[place + PER_DIGEST]
        assert found is not None
        return found


def masks_of(key: bytes, arm: bytes, endpoint: bytes, place: int) -> tuple[int, ...]:
    """Return the masks of the eight places that share a digest with ``place``."""
    first = place // PER_DIGEST * PER_DIGEST
    digest = blake2b(
        arm + (first + PER_DIGEST).to_bytes(2, "big") + endpoint,
        digest_size=DIGEST_BYTES,
        key=key,
        person=b"salver arm",
    ).digest()
    masks: tuple[int, ...] = _MASKS.unpack(digest)
    return masks
