"""The index of what can be asked, and what its requests' bodies say."""

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from salver.core.errors import (
    BodyTooLarge,
    InvalidJson,
    InvalidRequest,
)
from salver.gateway.http.message import Buffer
from salver.wire.messages import EndpointPlan

MAX_BODY_BYTES = 64 * 1024
_READY, _UNAVAILABLE = "READY", "UNAVAILABLE"


def wants_ready_only(body: Buffer) -> bool:
    """Read the body of a request for the index: nothing, or ``{"ready": bool}``.

    Raises ``BodyTooLarge``, ``InvalidJson`` or ``InvalidRequest``.
    """
    ready = _object(body, "send {} or nothing").get("ready", False)
    if not isinstance(ready, bool):
        raise InvalidRequest("the body must be an object, and 'ready' true or false")
    return ready


def change_parameters(body: Buffer) -> dict[str, Any]:
    """Return ``parameters`` of the body of a load or unload, which may be empty.

    Raises ``BodyTooLarge``, ``InvalidJson`` or ``InvalidRequest``.
    """
    hint = "a model's files and configuration are pushed ('salver push'), not sent along"
    parameters = _object(body, hint).get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest("'parameters' must be an object")
    return parameters


def _object(body: Buffer, hint: str) -> dict[str, Any]:
    if not body:
        return {}
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"the body is over {MAX_BODY_BYTES} bytes; {hint}")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be an object")
    return document


def repository_index(
    endpoints: Iterable[EndpointPlan], is_ready: Callable[[str], bool], *, ready_only: bool
) -> list[dict[str, Any]]:
    """Return an entry for each version behind the endpoints.

    An endpoint with none yet has one entry, whose version is empty.
    """
    entries: list[dict[str, Any]] = []
    for endpoint in endpoints:
        if not endpoint.variants:
            reason = endpoint.reason or "its model is still loading"
            entries.append(_entry(endpoint.name, "", reason))
        for version in sorted({variant.version for variant in endpoint.answering}, key=int):
            ids = [variant.id for variant in endpoint.answering if variant.version == version]
            reason = "" if any(map(is_ready, ids)) else "no worker can answer at the moment"
            entries.append(_entry(endpoint.name, version, reason))
    return [entry for entry in entries if not ready_only or entry["state"] == _READY]


def unloaded_index(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return an entry for each model that could be loaded; its version is empty."""
    return [_entry(name, "", "unloaded") for name in names]


def _entry(name: str, version: str, reason: str) -> dict[str, Any]:
    state = _UNAVAILABLE if reason else _READY
    return {"name": name, "version": version, "state": state, "reason": reason}
