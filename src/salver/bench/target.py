"""Where the load goes, and whether it may go there."""

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from salver.core.errors import InvalidSettings, NotReady

_PORTS = {"http": 80, "https": 443}
_LISTENS_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address, resolved once; ``tls`` is set where it speaks TLS."""

    host: str
    address: str
    port: int
    prefix: str = ""
    tls: ssl.SSLContext | None = None

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def find_target(
    url: str,
    tls: ssl.SSLContext | None = None,
    *,
    allow_remote: bool = False,
    http2: bool = False,
) -> Target:
    """Resolve a base URL once, so that what was allowed is what is asked.

    ``http2`` makes the context ask for it over TLS. Raises ``InvalidSettings`` for a URL that is
    none, one with a path under which gRPC cannot be, and for a server elsewhere without
    ``allow_remote``; ``NotReady`` for a name that does not resolve.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        host = parts.hostname or ""
    except (ValueError, KeyError):
        host = ""
    if not host:
        raise InvalidSettings(f"{url!r} is no address; write it like http://127.0.0.1:8080")
    addresses = _resolve(host, port)
    if not (allow_remote or _is_here(addresses[0])):
        raise InvalidSettings(
            f"{host} ({addresses[0]}) is not this machine, and load on somebody else's server is "
            "an attack; say --allow-remote if it is yours to load"
        )
    address = _listening([each for each in addresses if allow_remote or _is_here(each)], port)
    context = tls if parts.scheme == "https" else None
    if parts.scheme == "https" and context is None:
        context = ssl.create_default_context()
    prefix = parts.path.rstrip("/")
    if http2 and prefix:
        raise InvalidSettings(f"gRPC has no paths; take {prefix!r} off the address")
    if http2 and context is not None:
        context.set_alpn_protocols(["h2"])
    return Target(host, address, port, prefix, context)


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotReady(f"the name {host!r} does not resolve ({error}); check --url") from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _is_here(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _listening(addresses: Sequence[str], port: int) -> str:
    """Return the first address that takes a connection, as other clients do; else the first.

    A name may have two, as localhost often does, and a server may listen at one of them only.
    """
    for address in addresses if len(addresses) > 1 else ():
        with suppress(OSError), socket.create_connection((address, port), _LISTENS_WITHIN_S):
            return address
    return addresses[0]
