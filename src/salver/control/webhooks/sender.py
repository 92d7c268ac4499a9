"""Carries one attempt to tell a webhook out, to the very address that was checked."""

import asyncio
import ssl
from collections.abc import Sequence

import httpx

import salver
from salver.control.webhooks.attempt import FAILED, NO, OK, Attempt
from salver.control.webhooks.resolver import Resolve, permitted
from salver.control.webhooks.signing import (
    DELIVERY_HEADER,
    EVENT_HEADER,
    SIGNATURE_HEADER,
    signature,
)
from salver.core.clock import Clock
from salver.core.errors import InvalidRequest, InvalidSettings
from salver.core.webhooks import (
    Address,
    AllowList,
    Target,
    check_allowed,
    path_of,
    target_of,
)
from salver.registry.records import Delivery

_MAX_TRIED = 4
_MAX_READ_BYTES = 1024
_MAX_SHOWN = 200
_MAX_WAIT_S, _MAX_DIGITS = 3600.0, 9
_SECOND_NS = 1_000_000_000
_TRY_LATER = frozenset((408, 425, 429))
_USUAL_PORTS = {"https": 443, "http": 80}


def trusting(ca: str) -> ssl.SSLContext:
    """Return whom TLS trusts: who is in a PEM file, without one whom this machine trusts.

    Raises ``InvalidSettings``.
    """
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise InvalidSettings(
            f"control.webhook_ca: {ca} is no PEM file with certificates ({error})"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Sender:
    """Posts deliveries, with neither proxies nor redirects nor kept connections.

    ``secrets`` sign them.
    """

    def __init__(
        self,
        allowed: AllowList,
        secrets: Sequence[bytes],
        context: ssl.SSLContext,
        resolve: Resolve,
        clock: Clock,
    ) -> None:
        self._allowed = allowed
        self._secrets = secrets
        self._context = context
        self._resolve = resolve
        self._clock = clock

    async def __call__(self, item: Delivery) -> Attempt:
        """Try once; every failure is an outcome."""
        hook = item.webhook
        try:
            async with asyncio.timeout(hook.timeout_s):
                target = target_of(hook.url)
                check_allowed(hook.name, target, self._allowed)
                addresses = await permitted(target, self._allowed, self._resolve)
                return await self._post(item, target, addresses)
        except InvalidRequest as error:
            return Attempt(NO, reason=error.message)
        except TimeoutError:
            return Attempt(FAILED, reason=f"no answer within {hook.timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Attempt(FAILED, reason=_shown(f"{type(error).__name__}: {error}"))

    async def _post(self, item: Delivery, target: Target, addresses: Sequence[Address]) -> Attempt:
        """Ask the first of the addresses that can be connected to, each for a part of the time."""
        tried, timeout_s = addresses[:_MAX_TRIED], item.webhook.timeout_s
        limits = httpx.Timeout(timeout_s, connect=timeout_s / len(tried))
        async with httpx.AsyncClient(
            verify=self._context, trust_env=False, timeout=limits
        ) as client:
            for address in tried[:-1]:
                try:
                    return await self._ask(client, item, target, address)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    continue
            return await self._ask(client, item, target, tried[-1])

    async def _ask(
        self, client: httpx.AsyncClient, item: Delivery, target: Target, address: Address
    ) -> Attempt:
        # The URL has the address, so nothing is looked up again; TLS and Host have the name.
        host = _bracketed(str(address))
        request = client.build_request(
            "POST",
            f"{target.scheme}://{host}:{target.port}{path_of(item.webhook.url)}",
            content=item.body,
            headers=self._headers(item, target),
            extensions={"sni_hostname": target.host},
        )
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            return await _judged(response)
        finally:
            await response.aclose()

    def _headers(self, item: Delivery, target: Target) -> dict[str, str]:
        usual = target.port == _USUAL_PORTS[target.scheme]
        host = _bracketed(target.host)
        return {
            "host": host if usual else f"{host}:{target.port}",
            "accept": "*/*",
            "accept-encoding": "identity",
            "connection": "close",
            "content-type": "application/json",
            "user-agent": f"salver/{salver.__version__}",
            DELIVERY_HEADER: item.id,
            EVENT_HEADER: item.event,
            SIGNATURE_HEADER: signature(
                self._secrets, self._clock.unix_ns() // _SECOND_NS, item.body
            ),
        }


async def _judged(response: httpx.Response) -> Attempt:
    status = response.status_code
    if response.is_success:
        return Attempt(OK, status)
    if response.has_redirect_location:
        return Attempt(NO, status, f"{status}: redirects are not followed; give the last URL")
    reason = f"{status}: {await _beginning(response)}".removesuffix(": ")
    if response.is_server_error or status in _TRY_LATER:
        return Attempt(FAILED, status, reason, _wait_s(response.headers.get("retry-after", "")))
    return Attempt(NO, status, reason)


def _wait_s(text: str) -> float:
    """Return the seconds of ``Retry-After``, 0 for what is none."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return min(float(text), _MAX_WAIT_S) if is_number else 0.0


async def _beginning(response: httpx.Response) -> str:
    """Return the first of what it said as a line; whatever comes after is not read."""
    read = b""
    try:
        async for chunk in response.aiter_raw():
            read += chunk[:_MAX_READ_BYTES]
            if len(read) >= _MAX_READ_BYTES:
                break
    except httpx.HTTPError:
        pass  # the status says enough
    return _shown(read.decode(errors="replace"))


def _shown(text: str) -> str:
    """Return a line without what terminals and pages would take for more than text."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 1] + "…"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
