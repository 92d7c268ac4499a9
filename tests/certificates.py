"""Authorities and certificates made for tests."""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOCAL: tuple[x509.GeneralName, ...] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; its own is in ``file``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(self._sign(name, self._key, (), days=1, is_ca=True)))

    def issue(
        self,
        name: str,
        *,
        alternatives: tuple[x509.GeneralName, ...] = LOCAL,
        days: int = 1,
        password: bytes = b"",
        file: str = "",
    ) -> Issued:
        """Sign a certificate; negative ``days``: it expired so long ago. "" is no common name."""
        key = ec.generate_private_key(ec.SECP256R1())
        stem = self._folder / (file or f"{self._name}-{name or 'nameless'}{days}")
        issued = Issued(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        certificate = self._sign(name, key, alternatives, days=days)
        issued.certificate.write_bytes(_pem(certificate))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(password)
                if password
                else serialization.NoEncryption(),
            )
        )
        return issued

    def client(self, issued: Issued | None = None, *protocols: str) -> ssl.SSLContext:
        """Return a client's context that trusts this authority and shows a certificate."""
        context = ssl.create_default_context(cafile=self.file)
        if issued is not None:
            context.load_cert_chain(issued.certificate, issued.key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        alternatives: tuple[x509.GeneralName, ...],
        *,
        days: int,
        is_ca: bool = False,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        end = now + dt.timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - dt.timedelta(days=1))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
