"""Who may talk to control: holders of the token, under a loopback name.

The checks of Host and Origin keep web pages out, which could otherwise reach a loopback port
through DNS rebinding.
"""

import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from salver.core.errors import Forbidden, SalverError, Unauthenticated
from salver.core.secret_file import load_secret

_TOKEN_BYTES = 32
_LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1", "[::1]"))
_OPEN_PATHS = frozenset(("/metrics", "/healthz"))
_BEARER = "bearer "

Refuse = Callable[[SalverError], Callable[[Scope, Receive, Send], Awaitable[None]]]


def load_token(home: Path) -> str:
    """Return the token of ``HOME/control.token``, made at the first start."""
    return load_secret(home / "control.token", _TOKEN_BYTES).decode()


class Guard:
    """ASGI middleware that lets nobody else through."""

    def __init__(self, app: ASGIApp, token: str, refuse: Refuse) -> None:
        self._app = app
        self._token = token.encode()
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on or answer with a coded error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except SalverError as error:
            await self._refuse(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: dict[str, Any] | Scope) -> None:
        headers = Headers(scope=scope)
        _check_host(headers.get("host", ""), "Host")
        origin = headers.get("origin")
        if origin is not None:
            _check_host(urlsplit(origin).netloc, "Origin")
        if scope["path"] in _OPEN_PATHS and scope["method"] in ("GET", "HEAD"):
            return
        sent = headers.get("authorization", "")
        if sent[: len(_BEARER)].lower() == _BEARER:
            sent = sent[len(_BEARER) :].strip()
        if not hmac.compare_digest(sent.encode(), self._token):
            raise Unauthenticated(
                "the control API takes the token of HOME/control.token as 'Authorization: Bearer'; "
                "run the command as the user who started the server, with the same --home, or give "
                "the token in SALVER_CONTROL_TOKEN"
            )


def _check_host(host: str, header: str) -> None:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name.lower() not in _LOOPBACK:
        raise Forbidden(f"{header} {host[:100]!r} is not a name of this machine's loopback")
