"""Webhooks: who is told of a rollout, at which events, and which addresses may be called at all.

Nothing here resolves names or connects; what a name resolves to is checked where it is called.
"""

import ipaddress
import re
from collections import Counter
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import msgspec

from salver.core.errors import InvalidRequest, InvalidSettings, WebhookNotAllowed
from salver.core.names import check_name

BEFORE_STEP, WHEN_PROMOTED, WHEN_ROLLED_BACK, WHEN_PAUSED = (
    "before_step",
    "promoted",
    "rolled_back",
    "paused",
)
EVENTS = (BEFORE_STEP, WHEN_PROMOTED, WHEN_ROLLED_BACK, WHEN_PAUSED)
MAX_WEBHOOKS = 8
MAX_ATTEMPTS = 20
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 0.1, 60.0
MAX_BUDGET_S = 3600.0
HOSTS_SETTING = "control.webhook_hosts"
NETWORKS_SETTING = "control.webhook_networks"
_MAX_URL = 2048
_MAX_ENTRIES = 256
_PORTS = {"https": 443, "http": 80}
_URL = re.compile(r"[!#-\[\]_a-z~^]+", re.IGNORECASE | re.ASCII)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# What the C library reads as a number is never a name: 127.1, 0x7f000001, 017700000001.
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
_MAX_HOST = 253
_MAX_PORT = 65_535

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Webhook(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Somebody who is told of a rollout's events, and asked before its steps.

    ``on`` are events of ``EVENTS``. ``timeout_s`` is how long one attempt may take; there are at
    most ``attempts``, and none begins later than ``budget_s`` after the first.
    """

    name: str
    url: str
    on: tuple[str, ...]
    timeout_s: float = 10.0
    attempts: int = 5
    budget_s: float = 120.0


class Target(NamedTuple):
    """Where a URL leads: the scheme, the name or address as it is written, and the port."""

    scheme: str
    host: str
    port: int


class AllowList(NamedTuple):
    """Which hosts may be called, and which networks that are not public they may lead to.

    ``hosts`` are names or addresses with their ports; without one (None) the scheme's own is meant.
    """

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[Network, ...] = ()

    def has(self, target: Target) -> bool:
        """Tell whether a host may be called at this port."""
        usual = target.port == _PORTS[target.scheme]
        known = self.hosts
        return (target.host, target.port) in known or (usual and (target.host, None) in known)

    def may_reach(self, address: Address, target: Target) -> bool:
        """Tell whether an address may be connected to: it is public, or somebody allowed it."""
        if all(_is_public(each) for each in _meanings(address)):
            return True
        named = Target(target.scheme, str(address), target.port)
        return self.has(named) or any(address in network for network in self.networks)


def read_allow_list(hosts: str, networks: str) -> AllowList:
    """Read the two settings, each with commas between its entries; raises ``InvalidSettings``."""
    return AllowList(
        frozenset(_entry(text) for text in _words(hosts, HOSTS_SETTING)),
        tuple(_network(text) for text in _words(networks, NETWORKS_SETTING)),
    )


def check_webhooks(webhooks: tuple[Webhook, ...], allowed: AllowList) -> None:
    """Raise ``InvalidRequest`` for what cannot be meant and ``WebhookNotAllowed`` for hosts."""
    if len(webhooks) > MAX_WEBHOOKS:
        raise InvalidRequest(f"there are at most {MAX_WEBHOOKS} webhooks")
    repeated = [name for name, n in Counter(hook.name for hook in webhooks).items() if n > 1]
    if repeated:
        raise InvalidRequest(f"two webhooks are called {repeated[0][:64]!r}; give each a name")
    for hook in webhooks:
        _check_one(hook)
        check_allowed(hook.name, target_of(hook.url), allowed)


def check_allowed(name: str, target: Target, allowed: AllowList) -> None:
    """Raise ``WebhookNotAllowed``, which names the setting, for a host that is not on the list."""
    if not allowed.has(target):
        where = f"[{target.host}]" if ":" in target.host else target.host
        if target.port != _PORTS[target.scheme]:
            where += f":{target.port}"
        raise WebhookNotAllowed(
            f"webhook {name!r} calls {where}, which is not in {HOSTS_SETTING}; add it to that "
            "setting and restart the server"
        )


def target_of(url: str) -> Target:
    """Return where a URL leads; raises ``InvalidRequest`` for one that is not strictly one.

    There is one way to write each address, so that what is checked is what is called.
    """
    if len(url) > _MAX_URL or not _URL.fullmatch(url):
        raise InvalidRequest(
            f"a webhook's URL has at most {_MAX_URL} printable ASCII characters, without spaces, "
            "quotes and backslashes"
        )
    parts, port = _split(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidRequest("a webhook's URL begins with https:// or http:// and a host")
    if "@" in parts.netloc:
        raise InvalidRequest("a webhook's URL has no user and no password in it")
    if "#" in url:
        raise InvalidRequest("a webhook's URL has no fragment (#)")
    host = _host(parts.hostname, bracketed="[" in parts.netloc)
    return Target(parts.scheme, host, port or _PORTS[parts.scheme])


def path_of(url: str) -> str:
    """Return path and query of a URL that ``target_of`` takes."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def address_in(host: str) -> Address | None:
    """Return the address that a host is, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _check_one(hook: Webhook) -> None:
    check_name(hook.name, "webhook")
    unknown = [event for event in hook.on if event not in EVENTS]
    if unknown or not hook.on or len(set(hook.on)) != len(hook.on):
        raise InvalidRequest(f"'on' of webhook {hook.name!r} has some of {', '.join(EVENTS)}")
    if not MIN_TIMEOUT_S <= hook.timeout_s <= MAX_TIMEOUT_S:
        raise InvalidRequest(f"timeout_s of a webhook is 0.1 to {MAX_TIMEOUT_S:.0f} seconds")
    if not 1 <= hook.attempts <= MAX_ATTEMPTS:
        raise InvalidRequest(f"attempts of a webhook are 1 to {MAX_ATTEMPTS}")
    if not 1 <= hook.budget_s <= MAX_BUDGET_S:
        raise InvalidRequest(f"budget_s of a webhook is 1 to {MAX_BUDGET_S:.0f} seconds")


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(f"a webhook's URL cannot be read: {error}") from error
    if port == 0 or parts.netloc.endswith(":"):
        raise InvalidRequest(f"a webhook's port is 1 to {_MAX_PORT}")
    return parts, port


def _host(text: str, *, bracketed: bool) -> str:
    host = text.lower()
    address = address_in(host)
    if address is not None:
        if "%" in host or bracketed != (address.version == 6):  # noqa: PLR2004
            raise InvalidRequest("an IPv6 address stands in brackets, without a zone")
        return str(address)
    labels = host.split(".")
    if bracketed or len(host) > _MAX_HOST or not all(map(_LABEL.fullmatch, labels)):
        raise InvalidRequest(f"{text[:80]!r} is no name of a host; write it in ASCII, as in DNS")
    if _NUMBER.fullmatch(labels[-1]):
        raise InvalidRequest(f"{text[:80]!r} is no address; write IPv4 as four decimal numbers")
    return host


def _words(text: str, setting: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if len(words) > _MAX_ENTRIES:
        raise InvalidSettings(f"{setting} has at most {_MAX_ENTRIES} entries")
    return words


def _entry(text: str) -> tuple[str, int | None]:
    bare = f"[{text}]" if ":" in text and address_in(text) is not None else text
    try:
        target = target_of(f"https://{bare}/")
    except InvalidRequest as error:
        raise InvalidSettings(f"{HOSTS_SETTING}: {text[:80]!r}: {error.message}") from error
    if "/" in bare or "?" in bare:
        raise InvalidSettings(f"{HOSTS_SETTING} has hosts, NAME or NAME:PORT, and no URLs")
    has_port = re.search(r":\d+$", bare.rpartition("]")[2]) is not None
    return target.host, target.port if has_port else None


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidSettings(
            f"{NETWORKS_SETTING}: {text[:80]!r} is no network such as 10.0.0.0/8 ({error})"
        ) from error


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What ``ipaddress`` takes for public in some releases of Python, and is not.
_LOCAL = tuple(map(ipaddress.ip_network, ("100.64.0.0/10", "64:ff9b:1::/48", "fec0::/10")))


def _meanings(address: Address) -> list[Address]:
    """Return an address and those that it stands for: mapped, tunnelled, translated."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        low = int(address) & 0xFFFF_FFFF
        if address.ipv4_mapped is not None:
            return [address.ipv4_mapped]
        if address.sixtofour is not None:
            found.append(address.sixtofour)
        if address.teredo is not None:
            found.extend(address.teredo)
        if address in _NAT64 or int(address) >> 32 == 0:
            found.append(ipaddress.IPv4Address(low))
    return found


def _is_public(address: Address) -> bool:
    refused = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or not address.is_global
    )
    # A translated public address is as public as that one; the prefix itself counts as reserved.
    if isinstance(address, ipaddress.IPv6Address) and address in _NAT64:
        return True
    return not refused and not any(address in network for network in _LOCAL)
