"""The index of what can be asked, and why loading is asked elsewhere."""

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import orjson

from salver.core.errors import (
    BodyTooLarge,
    InvalidJson,
    InvalidRequest,
    UnsupportedOperation,
)
from salver.gateway.http.message import Buffer
from salver.wire.messages import EndpointPlan

MAX_BODY_BYTES = 64 * 1024
_READY, _UNAVAILABLE = "READY", "UNAVAILABLE"


def wants_ready_only(body: Buffer) -> bool:
    """Read the body of a request for the index: nothing, or ``{"ready": bool}``.

    Raises ``BodyTooLarge``, ``InvalidJson`` or ``InvalidRequest``.
    """
    if not body:
        return False
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"the body is over {MAX_BODY_BYTES} bytes; send {{}} or nothing")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not JSON: {error}") from error
    ready = document.get("ready", False) if isinstance(document, dict) else None
    if not isinstance(ready, bool):
        raise InvalidRequest("the body must be an object, and 'ready' true or false")
    return ready


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
        for version in sorted({variant.version for variant in endpoint.variants}, key=int):
            ids = [variant.id for variant in endpoint.variants if variant.version == version]
            reason = "" if any(map(is_ready, ids)) else "no worker can answer at the moment"
            entries.append(_entry(endpoint.name, version, reason))
    return [entry for entry in entries if not ready_only or entry["state"] == _READY]


def refuse_change(action: str, name: str) -> NoReturn:
    """Raise ``UnsupportedOperation``, which says how a model is loaded or unloaded instead."""
    command = "deploy" if action == "load" else "undeploy"
    raise UnsupportedOperation(
        f"the data port changes nothing: '{action}' is 'salver {command} {name}', "
        "or the control API"
    )


def _entry(name: str, version: str, reason: str) -> dict[str, Any]:
    state = _UNAVAILABLE if reason else _READY
    return {"name": name, "version": version, "state": state, "reason": reason}
