"""Where a process listens: `unix:PATH` or `tcp://HOST:PORT`."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from salver.core.errors import InvalidSettings

_UNIX = "unix:"
_TCP = "tcp://"
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system, private to those who may enter its folder."""

    path: str


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A port of a machine; port 0 lets the system choose when listening."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> UnixAddress | TcpAddress:
    """Read an address; raises ``InvalidSettings`` with the form that is expected."""
    if text.startswith(_UNIX) and len(text) > len(_UNIX):
        return UnixAddress(text.removeprefix(_UNIX))
    if text.startswith(_TCP):
        host, separator, port = text.removeprefix(_TCP).rpartition(":")
        if separator and host and port.isascii() and port.isdigit() and int(port) <= _MAX_PORT:
            return TcpAddress(host.strip("[]"), int(port))
    raise InvalidSettings(f"address {text!r} is neither unix:PATH nor tcp://HOST:PORT")


def folder_of(text: str) -> Path | None:
    """Return where a worker of this machine keeps what others may look at, None for another's."""
    address = parse_address(text)
    return Path(address.path).parent if isinstance(address, UnixAddress) else None
