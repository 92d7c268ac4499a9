"""One request and its answer as they went over the wire, and how they are shown."""

import json
from dataclasses import dataclass
from typing import Any

SHOWN_BYTES = 600
_MASK = "***"
_SECRET_HEADERS = frozenset({"authorization", "x-api-key", "cookie", "set-cookie"})
_SHOWN_HEADERS = frozenset({"content-type", "content-length", "inference-header-content-length"})


class BrokenAnswer(Exception):
    """An answer lacks what was asked of it; the message says what."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer; ``status`` is 0 and ``error`` is set where no answer came."""

    method: str
    path: str
    sent_headers: dict[str, str]
    sent_body: bytes
    status: int
    headers: dict[str, str]
    body: bytes
    error: str = ""
    connections: int = 0
    """How many connections were opened for it."""
    label: str = ""
    """What stands for the status where it is no number."""

    def json(self) -> Any:
        """Return the body's document; raises ``BrokenAnswer`` if it is not JSON.

        The words ``NaN`` and ``Infinity`` are no JSON.
        """
        return parse(self.body)


def parse(data: bytes) -> Any:
    """Return the document that JSON text holds; raises ``BrokenAnswer``."""
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BrokenAnswer(f"the body is not JSON ({error})") from error


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def shown(exchange: Exchange, secret: str = "") -> dict[str, Any]:
    """Return an exchange for people: bodies cut, secrets masked."""
    return {
        "request": masked(f"{exchange.method} {exchange.path}", secret),
        "request_headers": _headers(exchange.sent_headers, secret),
        "request_body": masked(body_text(exchange.sent_body), secret),
        "status": exchange.label or exchange.status or None,
        "headers": _headers(exchange.headers, secret),
        "body": masked(exchange.error, secret) or masked(body_text(exchange.body), secret),
    }


def body_text(body: bytes) -> str:
    """Return a body as printable text of a bounded length."""
    if not body:
        return ""
    text = body[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    text = printable(text)
    left = len(body) - SHOWN_BYTES
    return f"{text[:SHOWN_BYTES]}… ({left} bytes more)" if left > 0 else text


def _headers(headers: dict[str, str], secret: str) -> dict[str, str]:
    return {
        name: _MASK if name.lower() in _SECRET_HEADERS else masked(value, secret)
        for name, value in headers.items()
        if name.lower() in _SHOWN_HEADERS | _SECRET_HEADERS
    }


def masked(text: str, secret: str) -> str:
    """Return text as one printable line in which the secret is masked."""
    line = printable(text)
    return line.replace(secret, _MASK) if secret else line


def printable(text: str) -> str:
    """Return text as one line without control characters, since servers choose some of it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
