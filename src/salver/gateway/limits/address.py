"""Callers without a name, told apart by where they connect from.

An address belongs to one of a fixed number of groups, by a hash whose key nobody else knows. So
however many addresses somebody has, they fill nothing, and nobody can choose whose group to share.
"""

import asyncio
import ipaddress
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from salver.core.settings import LimitSettings

_V6_NETWORK_BITS = 64
_PURPOSE = b"address-group"


class AddressGroups:
    """Names the group of a connection's client."""

    def __init__(self, key: bytes, groups: int) -> None:
        self._key = key
        self._groups = groups

    def name(self, transport: asyncio.BaseTransport) -> str:
        """Return the name for whoever is at the other end; "" where there is no address."""
        peer: Any = transport.get_extra_info("peername")
        if not isinstance(peer, tuple) or not peer:
            return ""
        place = network(peer[0])
        digest = blake2b(place, key=self._key, person=_PURPOSE, digest_size=8).digest()
        return f"anonymous-{int.from_bytes(digest) % self._groups}"


Naming = Callable[[asyncio.BaseTransport], str]


def naming_of(settings: LimitSettings, key: bytes, *, has_keys: bool) -> Naming | None:
    """Return how clients without a certificate are named, None where it does not matter.

    Where keys are asked for, nobody is without a name; and no name of a group may be taken for the
    subject of a certificate.
    """
    if settings.rate_per_s > 0 and settings.address_groups > 0 and not has_keys:
        return AddressGroups(key, settings.address_groups).name
    return None


def network(address: str) -> bytes:
    """Return what tells one client from another: its address, or its network under IPv6.

    There a single client has at least a network of 64 bits to choose addresses from.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return parsed.ipv4_mapped.packed
        return parsed.packed[: _V6_NETWORK_BITS // 8]
    return parsed.packed
