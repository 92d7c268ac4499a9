"""Pairs of links for tests."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from salver.core.errors import WireError
from salver.wire.connection import Connection
from salver.wire.framing import Buffer
from salver.wire.messages import PROTOCOL_VERSION, Hello, Message
from salver.wire.transport import LinkOptions, TlsFiles, connect, listen

PLAIN = LinkOptions()


def hello(role: str, token: str = "", version: int = PROTOCOL_VERSION) -> Hello:
    """Return a greeting."""
    return Hello(version, role, f"{role}-0", "1", token)


class Inbox:
    """Receiver that keeps everything."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.messages: list[tuple[Message, bytes]] = []
        self.lost: list[WireError | None] = []
        self.news = asyncio.Event()

    def accept(self, connection: Connection) -> "Inbox":
        """Be the receiver of this link."""
        self.connection = connection
        self.news.set()
        return self

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Keep a message."""
        self.messages.append((message, bytes(payload)))
        self.news.set()

    def on_lost(self, error: WireError | None) -> None:
        """Keep the cause."""
        self.lost.append(error)
        self.news.set()

    async def until_accepted(self) -> Connection:
        """Wait for the link."""
        async with asyncio.timeout(10):
            while self.connection is None:
                self.news.clear()
                await self.news.wait()
        return self.connection

    async def until_messages(self, count: int) -> None:
        """Wait for so many messages."""
        async with asyncio.timeout(10):
            while len(self.messages) < count:
                self.news.clear()
                await self.news.wait()

    async def until_lost(self) -> None:
        """Wait for the end of the link."""
        async with asyncio.timeout(10):
            while not self.lost:
                self.news.clear()
                await self.news.wait()


@contextlib.asynccontextmanager
async def pair(
    address: str,
    options: LinkOptions = PLAIN,
    server: Hello | None = None,
    client: Hello | None = None,
    client_options: LinkOptions | None = None,
) -> AsyncIterator[tuple[Inbox, Inbox, Connection]]:
    """Listen and connect; gives both inboxes and the connecting side's link."""
    there, here = Inbox(), Inbox()
    listener = await listen(address, server or hello("worker"), there.accept, options)
    try:
        connection = await connect(
            listener.address,
            client or hello("gateway"),
            here.accept,
            5.0,
            client_options or options,
        )
        try:
            yield there, here, connection
        finally:
            connection.close()
            await here.until_lost()
    finally:
        await listener.close()


def make_tls(folder: Path) -> TlsFiles:
    """Make an authority and one certificate for this machine, good for both sides."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("authority", authority_key, "authority", authority_key, ca=True)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate("peer", key, "authority", authority_key, ca=False)
    files = TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    files.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
