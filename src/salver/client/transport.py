"""What both clients do with httpx: headers in, replies and errors out."""

import os
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from salver.client.calls import CONTROL, Call, Reply
from salver.client.connection import TOKEN_VARIABLE, Addresses
from salver.core.errors import (
    ControlUnavailable,
    DeadlineExceeded,
    InvalidSettings,
    NotReady,
    SalverError,
    Unauthenticated,
)

CA_VARIABLE = "SALVER_CA"
CLIENT_CERT_VARIABLE = "SALVER_CLIENT_CERT"

Trust = Path | ssl.SSLContext | None

# A host that no name can be is found out when it is looked up, by Python's own codec.
UNANSWERED = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)


def context_of(addresses: Addresses, ca: Trust) -> ssl.SSLContext | bool:
    """Return what httpx is to verify servers with.

    ``ca`` is a PEM file of authorities, by default ``$SALVER_CA``, else what this machine trusts;
    a context is used as it is. ``$SALVER_CLIENT_CERT`` is a PEM file with a certificate to show and
    its key. Raises ``InvalidSettings`` for files that cannot be used.
    """
    if isinstance(ca, ssl.SSLContext):
        return ca
    if not any(url.startswith("https:") for url in (addresses.data_url, addresses.control_url)):
        return True
    own = os.environ.get(CLIENT_CERT_VARIABLE)
    file = ca or os.environ.get(CA_VARIABLE) or None
    try:
        context = ssl.create_default_context(cafile=file)
    except OSError as error:
        raise _unusable(f"the authorities in {file} (--ca, {CA_VARIABLE})", error) from error
    if own:
        try:
            context.load_cert_chain(own)
        except OSError as error:
            what = f"the client certificate and key in {own} ({CLIENT_CERT_VARIABLE})"
            raise _unusable(what, error) from error
    return context


def _unusable(what: str, error: OSError) -> InvalidSettings:
    cause = getattr(error, "reason", None) or error.strerror or "not PEM"
    return InvalidSettings(f"{what} cannot be read: {cause}; name a PEM file")


def base_of(plane: str, addresses: Addresses) -> str:
    """Return the base URL of a plane's server; raises if nobody may be taken for it.

    That is ``ControlUnavailable``, or ``NotReady`` for the data port.
    """
    if plane == CONTROL:
        if not addresses.control_url:
            raise ControlUnavailable(addresses.unknown)
        return addresses.control_url
    if not addresses.data_url:
        raise NotReady(addresses.unknown)
    return addresses.data_url


def headers_of(call: Call, addresses: Addresses) -> dict[str, str]:
    """Return the call's headers with the secret that its server asks for.

    Raises ``InvalidSettings`` for a secret that cannot stand in a header, and ``Unauthenticated``
    for a control API whose token is not known, as it is not the home's.
    """
    if call.plane == CONTROL and addresses.withheld is not None:
        raise Unauthenticated(
            f"{addresses.control_url} is not the control API of a server that runs from "
            f"{addresses.withheld}, so it is not sent the token of that home; name its own home "
            f"with --home, or give its token in {TOKEN_VARIABLE}"
        )
    secret = addresses.token if call.plane == CONTROL else addresses.api_key
    if not (secret.isascii() and secret.isprintable()) or secret.strip() != secret:
        # What the HTTP library says of it would blame the server and show the secret.
        raise InvalidSettings(
            "the API key or token holds a line break, an outer blank, or a letter that is not "
            f"ASCII; check --api-key or {TOKEN_VARIABLE}"
        )
    headers = dict(call.headers)
    if secret:
        headers["authorization"] = f"Bearer {secret}"
    return headers


def reply_of(response: httpx.Response) -> Reply:
    """Return a response as a value."""
    return Reply(response.status_code, response.headers, response.content)


def error_of(error: Exception, call: Call, base: str) -> SalverError:
    """Name the cause and the fix of a call that got no answer: one of ``UNANSWERED``."""
    no_url = isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | UnicodeError)
    if no_url or not _can_be_looked_up(base):
        return InvalidSettings(f"{base!r} is no address; write it like http://127.0.0.1:8080")
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"{base} did not answer in time; give it more or see 'salver logs'")
    fault = _tls_fault(error)
    if isinstance(fault, ssl.SSLCertVerificationError):
        return InvalidSettings(
            f"{base} shows a certificate that is not trusted here ({fault.verify_message}); give "
            f"its authority with --ca or {CA_VARIABLE}, and name the server as its certificate does"
        )
    what = f"no answer from {base} ({error or type(error).__name__})"
    fix = "start the server with 'salver up', or name its address or --home"
    if base.startswith("https:"):
        fix += f"; if it asks for a client certificate, name yours in {CLIENT_CERT_VARIABLE}"
    if call.plane == CONTROL:
        return ControlUnavailable(f"{what}; {fix}")
    return NotReady(f"{what}; {fix}")


def _can_be_looked_up(base: str) -> bool:
    """Tell whether a host can be a name; asyncio asks the system, which only says it knows none."""
    try:
        (urlsplit(base).hostname or "").encode("idna")
    except ValueError:
        return False
    return True


def _tls_fault(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error
