"""Opens links over Unix sockets, and over TCP with TLS."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from salver.core.errors import InvalidSettings, WireError
from salver.wire.address import TcpAddress, UnixAddress, parse_address
from salver.wire.connection import Connection, LinkLimits, Receiver
from salver.wire.framing import Allocate
from salver.wire.messages import Hello
from salver.wire.unix import listening, reachable

DEFAULT_MAX_FRAME_BYTES = 1024 * 1024 * 1024
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate and key, and the authority that signed the peers'."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How links are opened.

    ``coalesce`` off writes every message on its own; ``allocate`` makes the memory that large
    payloads are received into.
    """

    tls: TlsFiles | None = None
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES
    coalesce: bool = True
    allocate: Allocate = bytearray


_DEFAULT_OPTIONS = LinkOptions()


class Listener:
    """An open door; ``address`` has the real port."""

    def __init__(self, address: str, server: asyncio.Server, path: Path | None = None) -> None:
        self.address = address
        self._server = server
        self._path = path
        self._inode = path.stat().st_ino if path is not None else 0

    async def close(self) -> None:
        """Accept nothing more; open links go on. Harmless when repeated."""
        self._server.close()
        path, self._path = self._path, None
        if path is not None:
            with contextlib.suppress(OSError):
                # A successor may already listen at the same path.
                if path.stat().st_ino == self._inode:
                    path.unlink()


async def connect(
    address: str,
    hello: Hello,
    accept: Callable[[Connection], Receiver],
    timeout_s: float,
    options: LinkOptions = _DEFAULT_OPTIONS,
) -> Connection:
    """Open a link and exchange greetings.

    Raises ``WireError`` when nobody answers in time, or the greeting is refused.
    """
    place = parse_address(address)
    limits = LinkLimits(options.max_frame_bytes, options.coalesce, options.allocate)
    loop = asyncio.get_running_loop()

    connection = Connection(hello, accept, initiator=True, limits=limits)
    try:
        async with asyncio.timeout(timeout_s):
            if isinstance(place, UnixAddress):
                with reachable(Path(place.path)) as name:
                    await loop.create_unix_connection(lambda: connection, name)
            else:
                context = _client_context(place, options.tls)
                await loop.create_connection(
                    lambda: connection, place.host, place.port, ssl=context
                )
            await connection.greeted
    except BaseException as error:
        # Called off while it connects, the loop closes the socket without telling the protocol.
        connection.drop()
        if isinstance(error, OSError | TimeoutError):
            raise WireError(f"{address} does not answer: {error or 'timed out'}") from error
        raise
    return connection


async def listen(
    address: str,
    hello: Hello,
    accept: Callable[[Connection], Receiver],
    options: LinkOptions = _DEFAULT_OPTIONS,
    door: socket.socket | None = None,
) -> Listener:
    """Open a door. Raises ``InvalidSettings`` for TCP beyond this machine without TLS.

    ``door`` is a Unix socket that listens at the address already; it stays when this is closed.
    """
    place = parse_address(address)
    limits = LinkLimits(options.max_frame_bytes, options.coalesce, options.allocate)
    loop = asyncio.get_running_loop()

    def factory() -> Connection:
        return Connection(hello, accept, initiator=False, limits=limits)

    if door is not None:
        return Listener(
            address, await loop.create_unix_server(factory, sock=door, backlog=_BACKLOG)
        )
    if isinstance(place, UnixAddress):
        path = Path(place.path)
        opened = listening(path, _BACKLOG)
        server = await loop.create_unix_server(factory, sock=opened, backlog=_BACKLOG)
        return Listener(address, server, path)
    context = _server_context(place, options.tls, hello.token)
    server = await loop.create_server(
        factory, place.host, place.port, ssl=context, backlog=_BACKLOG
    )
    port = server.sockets[0].getsockname()[1]
    return Listener(f"tcp://{place.host}:{port}", server)


def _client_context(place: TcpAddress, tls: TlsFiles | None) -> ssl.SSLContext | None:
    if tls is None:
        if place.is_loopback:
            return None
        raise InvalidSettings(f"tcp://{place.host} is another machine: TLS files are needed")
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    return context


def _server_context(place: TcpAddress, tls: TlsFiles | None, token: str) -> ssl.SSLContext | None:
    if not token:
        raise InvalidSettings(f"listening on tcp://{place.host} takes a token")
    if tls is None:
        if place.is_loopback:
            return None
        raise InvalidSettings(
            f"listening on tcp://{place.host} takes TLS files: other machines can reach it"
        )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tls.certificate, tls.key)
    return context
