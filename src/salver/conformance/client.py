"""The HTTP client of the checks: bounded in time and size, and it records every exchange."""

from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any

import httpx

from salver.conformance.exchange import Exchange

TIMEOUT_S = 15.0
MAX_BODY_BYTES = 16 * 1024 * 1024
_TIMED_OUT = "no answer in time"
_CONNECTED = "connection.connect_tcp.started"


class Client:
    """Sends requests to one server; ``exchanges`` holds those since the last ``forget``."""

    def __init__(self, url: str, api_key: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self.api_key = api_key
        self.exchanges: list[Exchange] = []
        self._timeout_s = timeout_s
        self._http: httpx.Client | None = None

    def start(self) -> None:
        """Open the client; no connection is made yet."""
        self._http = httpx.Client(timeout=self._timeout_s, trust_env=False)
        # A user agent and encodings of our own choice would be one more thing to explain.
        self._http.headers.clear()

    def stop(self) -> None:
        """Close all connections."""
        if self._http is not None:
            self._http.close()

    def forget(self) -> None:
        """Begin a new list of exchanges."""
        self.exchanges = []

    def record(self, exchange: Exchange) -> None:
        """Keep an exchange, also one of another transport."""
        self.exchanges.append(exchange)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> Exchange:
        """Send one request and return what came back; never raises for what a server does.

        A server may close a connection while nothing is asked. Whoever finds that out by sending
        cannot know it before, so such a request is sent once more, on a new connection.
        """
        sent = dict(headers or {})
        if self.api_key:
            sent["Authorization"] = f"Bearer {self.api_key}"
        exchange = self._once(method, path, body, sent)
        if exchange.error not in ("", _TIMED_OUT) and not exchange.connections:
            first, exchange = exchange, self._once(method, path, body, sent)
            if exchange.error:
                exchange = replace(exchange, error=f"{first.error}; then {exchange.error}")
        self.record(exchange)
        return exchange

    def _once(self, method: str, path: str, body: bytes, sent: dict[str, str]) -> Exchange:
        assert self._http is not None
        opened: list[str] = []
        extensions = {"trace": _counter(opened)}
        content = body if method == "POST" else None
        status, answered, received, error = 0, {}, b"", ""
        try:
            with self._http.stream(
                method, self.url + path, content=content, headers=sent, extensions=extensions
            ) as response:
                status = response.status_code
                answered = {name.lower(): value for name, value in response.headers.items()}
                received = _read(response, monotonic() + self._timeout_s)
        except httpx.TimeoutException:
            error = _TIMED_OUT
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as failure:
            error = f"no answer: {failure or type(failure).__name__}"
        return Exchange(
            method, path, sent, body, 0 if error else status, answered, received, error, len(opened)
        )


def _counter(opened: list[str]) -> Callable[[str, dict[str, Any]], None]:
    def trace(event: str, _: dict[str, Any]) -> None:
        if event == _CONNECTED:
            opened.append(event)

    return trace


def _read(response: httpx.Response, deadline_s: float) -> bytes:
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if monotonic() > deadline_s:
            raise ValueError("the body does not end in time")
        if size > MAX_BODY_BYTES:
            raise ValueError(f"the body is over {MAX_BODY_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)
