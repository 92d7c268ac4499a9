"""Who calls: API keys from a file of hashes, and the subjects of client certificates.

Keys are 256 random bits, so a plain SHA-256 cannot be guessed and costs the request little.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import yaml

from salver.core.context import ANONYMOUS, DEFAULT_TENANT, Principal, Rate
from salver.core.errors import (
    Forbidden,
    InvalidSettings,
    QuotaExceeded,
    SalverError,
    Unauthenticated,
)
from salver.core.names import check_name

_CACHED_KEYS = 1024
_BEARER = b"bearer "
_RETRY_AFTER_S = 1.0
_DIGEST_LENGTH = 64
_SUBJECT = "subject:"
_SHOWN_LENGTH = 200
_MAX_NAMED = 4096


class RateEntry(msgspec.Struct, forbid_unknown_fields=True):
    """How often an endpoint may be asked: ``rate`` a second, ``burst`` at once."""

    rate: float
    burst: int | None = None


class KeyEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One line of the file: who holds a key (``sha256``), or a client certificate (``subject``).

    An ``admin`` may also load and unload its endpoints, where the data port does that at all.
    """

    principal: str
    sha256: str | None = None
    subject: str | None = None
    tenant: str = DEFAULT_TENANT
    endpoints: list[str] | None = None
    max_in_flight: int | None = None
    admin: bool = False
    rate: float | None = None
    burst: int | None = None
    endpoint_rates: dict[str, RateEntry] | None = None


class KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    """The file: ``keys:`` and a list."""

    keys: list[KeyEntry]


class Keys:
    """Finds the principal of a request.

    When there is no file, callers are named after their certificate, or anonymous without one.

    ``reload`` takes over a changed file; one that is broken leaves the old keys in force.
    ``number`` changes with the keys: who was identified under another must be asked again.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._principals: dict[str, Principal] = {}
        self._named: dict[str, Principal] = {}
        self._cache: dict[bytes, Principal] = {}
        self._modified_ns = 0
        self.number = 0

    def provision(self) -> None:
        """Read the file; raises ``InvalidSettings`` with the place of the fault."""
        if self._path is None:
            return
        try:
            modified_ns = self._path.stat().st_mtime_ns
            document = yaml.safe_load(self._path.read_text())
            entries = msgspec.convert(document, KeyFile).keys
        except (OSError, ValueError, RecursionError, yaml.YAMLError, msgspec.MsgspecError) as error:
            # ValueError: bytes that are no text, dates that do not exist.
            raise InvalidSettings(f"API key file {self._path}: {error}") from error
        known = self._principals
        fresh = [(self._proof(entry), _principal(entry)) for entry in entries]
        self._principals = {proof: _same(known.get(proof), one) for proof, one in fresh}
        self._cache = {}
        self._modified_ns = modified_ns
        self.number += 1

    def reload(self) -> SalverError | None:
        """Read the file again if it changed; returns what is wrong with it, if anything."""
        if self._path is None:
            return None
        try:
            if self._path.stat().st_mtime_ns == self._modified_ns:
                return None
            self.provision()
        except OSError as error:
            return InvalidSettings(f"API key file {self._path}: {error}")
        except SalverError as error:
            return error
        return None

    def identify(self, headers: Mapping[bytes, bytes], peer: str = "") -> Principal:
        """Return who sent these headers; raises ``Unauthenticated``.

        ``peer`` is the subject of the certificate shown on the connection, empty without one. A
        key that is sent decides, the certificate speaks where there is none.
        """
        if self._path is None:
            return self._name(peer) if peer else ANONYMOUS
        sent = headers.get(b"authorization") or headers.get(b"x-api-key")
        if sent is None:
            return self._certified(peer)
        principal = self._cache.get(sent)
        return principal if principal is not None else self._look_up(sent)

    def _certified(self, peer: str) -> Principal:
        if not peer:
            raise Unauthenticated(
                "send an API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            )
        principal = self._principals.get(_SUBJECT + peer)
        if principal is None:
            raise Unauthenticated(
                f"no entry of the key file has the subject {peer[:_SHOWN_LENGTH]!r} of your "
                "certificate; ask the operator for one, or send an API key"
            )
        return principal

    def _name(self, peer: str) -> Principal:
        principal = self._named.get(peer)
        if principal is None:
            if len(self._named) >= _MAX_NAMED:
                self._named.clear()
            principal = self._named[peer] = Principal(peer)
        return principal

    def _proof(self, entry: KeyEntry) -> str:
        """Return what a caller shows for this entry; subjects cannot look like digests."""
        if (entry.sha256 is None) == (not entry.subject):
            raise InvalidSettings(
                f"API key file {self._path}: the entry of {entry.principal!r} takes either "
                "'sha256' (a key's digest) or 'subject' (of a client certificate)"
            )
        if entry.sha256 is None:
            return f"{_SUBJECT}{entry.subject}"
        if len(entry.sha256) != _DIGEST_LENGTH:
            raise InvalidSettings(
                f"API key file {self._path}: sha256 of {entry.principal!r} must be 64 hexadecimal "
                "digits"
            )
        return entry.sha256.lower()

    def _look_up(self, sent: bytes) -> Principal:
        key = sent[len(_BEARER) :].strip() if sent[: len(_BEARER)].lower() == _BEARER else sent
        digest = hashlib.sha256(key).hexdigest()
        principal = self._principals.get(digest)
        if principal is None:
            raise Unauthenticated("the API key is not known; ask the operator for one")
        if len(self._cache) >= _CACHED_KEYS:
            self._cache.clear()
        self._cache[sent] = principal
        return principal


def check_access(principal: Principal, endpoint: str) -> None:
    """Raise ``Forbidden`` or ``QuotaExceeded`` unless the caller may ask this endpoint now.

    Of what no endpoint can be called it is ``InvalidName``, whatever the caller may.
    """
    if principal.endpoints is not None and endpoint not in principal.endpoints:
        check_name(endpoint, "endpoint")
        raise Forbidden(f"the API key of {principal.name!r} may not call endpoint {endpoint!r}")
    if principal.max_in_flight is not None and principal.in_flight >= principal.max_in_flight:
        raise QuotaExceeded(
            f"{principal.name!r} has {principal.in_flight} requests open, which is its quota",
            retry_after_s=_RETRY_AFTER_S,
        )


def may_ask(principal: Principal, endpoint: str, count: int) -> bool:
    """Tell whether ``check_access`` would let the caller ask so many times now."""
    allowed, quota = principal.endpoints, principal.max_in_flight
    if allowed is not None and endpoint not in allowed:
        return False
    return quota is None or principal.in_flight + count <= quota


def _same(known: Principal | None, fresh: Principal) -> Principal:
    """Carry the open requests over, so that a changed file does not renew a used quota."""
    if known is None:
        return fresh
    known.name, known.tenant = fresh.name, fresh.tenant
    known.endpoints, known.max_in_flight = fresh.endpoints, fresh.max_in_flight
    known.is_admin = fresh.is_admin
    known.rate, known.endpoint_rates = fresh.rate, fresh.endpoint_rates
    known.is_rerated = True
    return known


def _principal(entry: KeyEntry) -> Principal:
    where = f"API key file, entry of {entry.principal!r}"
    if entry.burst is not None and entry.rate is None:
        raise InvalidSettings(f"{where}: a burst takes a rate")
    return Principal(
        check_name(entry.principal, "principal"),
        check_name(entry.tenant, "tenant"),
        None if entry.endpoints is None else frozenset(entry.endpoints),
        entry.max_in_flight,
        is_admin=entry.admin,
        rate=None if entry.rate is None else Rate.checked(entry.rate, entry.burst, where),
        endpoint_rates=_endpoint_rates(entry, where),
    )


def _endpoint_rates(entry: KeyEntry, where: str) -> dict[str, Rate] | None:
    return {
        endpoint: Rate.checked(one.rate, one.burst, f"{where}, endpoint {endpoint!r}")
        for endpoint, one in (entry.endpoint_rates or {}).items()
    } or None
