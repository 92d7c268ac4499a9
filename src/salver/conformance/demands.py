"""What checks ask of an answer; each function raises ``Failed`` with what was wrong."""

from typing import Any

from salver.conformance.base import Failed
from salver.conformance.exchange import BrokenAnswer, Exchange

_OK = 200
_ERRORS = range(400, 600)
_CALLER_ERRORS = range(400, 500)


def answered(exchange: Exchange) -> None:
    """Demand that an answer came at all."""
    if not exchange.status:
        raise Failed(exchange.error)


def ok(exchange: Exchange) -> None:
    """Demand status 200."""
    answered(exchange)
    if exchange.status != _OK:
        raise Failed(f"status {exchange.status} instead of 200")


def json_of(exchange: Exchange) -> Any:
    """Demand status 200 and return the body's document."""
    ok(exchange)
    try:
        return exchange.json()
    except BrokenAnswer as error:
        raise Failed(str(error)) from error


def object_of(exchange: Exchange) -> dict[str, Any]:
    """Demand status 200 and return the JSON object of the body."""
    return an_object(json_of(exchange), "the body")


def an_object(value: Any, what: str) -> dict[str, Any]:
    """Demand a JSON object."""
    if not isinstance(value, dict):
        raise Failed(f"{what} is no JSON object")
    return value


def text(document: dict[str, Any], name: str) -> str:
    """Demand a text under this name."""
    value = document.get(name)
    if not isinstance(value, str):
        raise Failed(f"{name!r} is {_described(document, name)} instead of a string")
    return value


def texts(document: dict[str, Any], name: str) -> list[str]:
    """Demand a list of texts under this name."""
    value = listing(document, name)
    for item in value:
        if not isinstance(item, str):
            raise Failed(f"{name!r} holds {item!r:.60}, which is no string")
    return value


def listing(document: dict[str, Any], name: str) -> list[Any]:
    """Demand a list under this name."""
    value = document.get(name)
    if not isinstance(value, list):
        raise Failed(f"{name!r} is {_described(document, name)} instead of an array")
    return value


def refused(exchange: Exchange) -> None:
    """Demand an error status and a body ``{"error": text}``."""
    answered(exchange)
    if exchange.status not in _ERRORS:
        raise Failed(f"status {exchange.status} instead of an error status")
    try:
        document = exchange.json()
    except BrokenAnswer as error:
        raise Failed(f"status {exchange.status}, but {error}") from error
    if not text(an_object(document, "the error's body"), "error"):
        raise Failed("'error' is empty; it shall describe the error")


def callers_fault(exchange: Exchange) -> None:
    """Demand a status of 400 to 499."""
    answered(exchange)
    if exchange.status not in _CALLER_ERRORS:
        raise Failed(f"status {exchange.status} instead of 400 to 499")


def content_type(exchange: Exchange, wanted: str) -> None:
    """Demand a media type, whatever its parameters."""
    answered(exchange)
    found = exchange.headers.get("content-type", "")
    if found.split(";")[0].strip().lower() != wanted:
        raise Failed(f"Content-Type is {found!r} instead of {wanted!r}")


def _described(document: dict[str, Any], name: str) -> str:
    return f"{document[name]!r:.60}" if name in document else "missing"
