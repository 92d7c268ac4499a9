"""HTTP calls as values, so that the synchronous and the asynchronous client share one core.

A method of the client is a generator that yields ``Call``s and is sent ``Reply``s; the two
clients differ only in how they carry a call out.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from salver.core.errors import Internal, InvalidRequest, SalverError, Unauthenticated, from_code

DATA = "data"
CONTROL = "control"
API = "/api/v1"
_SUCCESS = range(200, 300)
_UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request; ``body`` may be a file to stream. ``plane`` picks the server."""

    method: str
    plane: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Path | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP response, wholly read; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Result = TypeVar("Result")
Steps = Generator[Call, Reply, Result]


def json_bytes(value: object) -> bytes:
    """Return JSON; raises ``InvalidRequest`` for what it has no form for, as files may hold it."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(f"a value cannot be said in JSON: {error}") from error


def admin_call(
    method: str, path: str, payload: object = None, timeout_s: float | None = None
) -> Call:
    """Build a call of the control API with a JSON body; raises as ``json_bytes`` does."""
    headers = {} if payload is None else {"content-type": "application/json"}
    body = None if payload is None else json_bytes(payload)
    return Call(method, CONTROL, API + path, headers, body, timeout_s)


def json_of(reply: Reply) -> Any:
    """Return the reply's JSON, or raise the domain error that the server reported."""
    check(reply)
    if not reply.body:
        return None
    try:
        return orjson.loads(reply.body)
    except orjson.JSONDecodeError as error:
        raise Internal("the server's answer is not JSON; is the address that of Salver?") from error


def check(reply: Reply) -> Reply:
    """Return a successful reply; raise the coded error of any other."""
    if reply.status in _SUCCESS:
        return reply
    raise _error_of(reply)


def _error_of(reply: Reply) -> SalverError:
    retry_after = reply.headers.get("retry-after", "")
    retry_after_s = float(retry_after) if retry_after.isdigit() else None
    try:
        document = orjson.loads(reply.body)
        return from_code(str(document["code"]), str(document["error"]), retry_after_s)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        if reply.status == _UNAUTHORIZED:
            return Unauthenticated("the server does not know the key or token that was sent")
        return Internal(
            f"HTTP status {reply.status} without a coded error; is the address that of Salver?"
        )
