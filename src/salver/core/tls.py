"""Certificates of a listening port: read, checked, and read again when they change.

Everything here uses the standard library, so that the supervisor can check the files too.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from salver.core.errors import InvalidSettings, SalverError

_END = "-----END CERTIFICATE-----"
_BEGIN = "-----BEGIN CERTIFICATE-----"
_EXPIRED, _NOT_YET_VALID = 10, 9

Stamp = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files of a port that speaks TLS.

    ``client_authority`` is who signs clients' certificates, None where clients show none.
    ``clients_must`` refuses clients without a certificate; otherwise they may have another proof.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None
    clients_must: bool = True


def server_tls(
    certificate: Path | None, key: Path | None, client_authority: Path | None, *, has_keys: bool
) -> ServerTls | None:
    """Return what the options ask for, None for no TLS.

    A client certificate is a must unless API keys can stand in for it. Raises ``InvalidSettings``
    for options that do not go together.
    """
    if certificate is None and key is None:
        if client_authority is not None:
            raise InvalidSettings(
                "--tls-client-ca takes --tls-cert and --tls-key: clients show certificates to a "
                "port that speaks TLS"
            )
        return None
    if certificate is None or key is None:
        missing = "--tls-cert" if certificate is None else "--tls-key"
        raise InvalidSettings(f"{missing} is missing: TLS takes a certificate and its key")
    return ServerTls(certificate, key, client_authority, not has_keys)


def server_context(tls: ServerTls, *, http2: bool = True) -> ssl.SSLContext:
    """Return the context for new connections, which are offered HTTP/1.1 and ``http2``.

    Raises ``InvalidSettings`` that names the file, the cause and the fix.
    """
    certificate = _read(tls.certificate, "--tls-cert")
    _read(tls.key, "--tls-key")
    context = _bare_context(tls)
    _check_dates(context, certificate, tls.certificate)
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    if tls.client_authority is not None:
        _read(tls.client_authority, "--tls-client-ca")
        try:
            context.load_verify_locations(tls.client_authority)
        except ssl.SSLError as error:
            raise InvalidSettings(
                f"--tls-client-ca: {tls.client_authority} has no certificate in PEM form; give the "
                "certificate of the authority that signs your clients'"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED if tls.clients_must else ssl.CERT_OPTIONAL
        # A resumed session would not show the client's certificate to be checked again.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


class ReloadingContext:
    """The context in force; ``reload`` takes over changed files.

    Files that are broken leave the context as it was. A certificate and its key are two files, so
    for a moment they may not fit: they are tried again until they do.
    """

    def __init__(self, tls: ServerTls, *, http2: bool = True) -> None:
        self._tls = tls
        self._http2 = http2
        self._context: ssl.SSLContext | None = None
        self._loaded: Stamp = ()
        self._told: Stamp = ()

    def provision(self) -> None:
        """Read the files; raises ``InvalidSettings``."""
        stamp = self._stamp()
        self._context = server_context(self._tls, http2=self._http2)
        self._loaded = stamp

    @property
    def context(self) -> ssl.SSLContext:
        """What new connections are to use."""
        assert self._context is not None
        return self._context

    def reload(self) -> SalverError | None:
        """Read the files again if they changed.

        Returns what is wrong with them, once for each state they are in.
        """
        stamp = self._stamp()
        if stamp == self._loaded:
            return None
        try:
            self.provision()
        except SalverError as error:
            if stamp == self._told:
                return None
            self._told = stamp
            return error
        return None

    def _stamp(self) -> Stamp:
        files = (self._tls.certificate, self._tls.key, self._tls.client_authority)
        return tuple(_stamp(file) for file in files if file is not None)


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        facts = file.stat()
    except OSError:
        return ()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _read(file: Path, option: str) -> str:
    try:
        return file.read_text("latin-1")
    except OSError as error:
        raise InvalidSettings(
            f"{option}: {file} cannot be read ({error.strerror}); name a PEM file that the user "
            "who runs the server may read"
        ) from error


def _refuse_password(key: Path) -> Callable[[], str]:
    def refuse() -> str:
        raise InvalidSettings(
            f"--tls-key: {key} is encrypted and nobody is there to be asked for its password; "
            f"write it without one: openssl pkey -in {key} -out plain.pem"
        )

    return refuse


def _bare_context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(tls.certificate, tls.key, _refuse_password(tls.key))
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise InvalidSettings(
                f"--tls-key: {tls.key} is not the key of {tls.certificate}; give the two that were "
                "made together"
            ) from error
        cause = (error.reason or "not PEM").lower().replace("_", " ")
        raise InvalidSettings(
            f"--tls-cert, --tls-key: {tls.certificate} and {tls.key} are not a certificate and a "
            f"key that can be used ({cause}); both must be PEM files"
        ) from error
    return context


def _check_dates(server: ssl.SSLContext, pem: str, file: Path) -> None:
    """Refuse a certificate that no client would take, by a handshake in memory.

    The client there trusts this certificate alone, so that only its dates and its purpose count.
    """
    if _BEGIN not in pem or _END not in pem:
        raise InvalidSettings(f"--tls-cert: {file} has no certificate in PEM form")
    first = pem[pem.index(_BEGIN) : pem.index(_END) + len(_END)]
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=first)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        for side in sides * 2:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        reasons = {_EXPIRED: "has expired", _NOT_YET_VALID: "is not valid yet"}
        reason = reasons.get(error.verify_code, f"is of no use ({error.verify_message})")
        raise InvalidSettings(
            f"--tls-cert: the certificate in {file} {reason}; give one that clients accept today"
        ) from error
    except ssl.SSLError as error:
        raise InvalidSettings(
            f"--tls-cert: the certificate in {file} cannot be used ({error.reason})"
        ) from error
