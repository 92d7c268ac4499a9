"""What every JSON body has in common, whatever its dialect: one object, and parameters."""

from typing import Any

import orjson

from salver.core.errors import BodyTooLarge, InvalidJson, InvalidRequest
from salver.core.settings import HttpSettings
from salver.core.tensor import Buffer


def check_json_size(size_bytes: int, settings: HttpSettings) -> None:
    """Raise ``BodyTooLarge`` when JSON is over its limit."""
    if size_bytes > settings.max_json_bytes:
        raise BodyTooLarge(
            f"{size_bytes} bytes of JSON are over the limit of {settings.max_json_bytes}; send "
            "tensors as binary data"
        )


def parse_object(body: Buffer) -> dict[str, Any]:
    """Return the object that a body is; raises ``InvalidJson`` or ``InvalidRequest``."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be a JSON object with 'inputs'")
    return document


def parameters_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """Return a body's parameters as they were sent; raises ``InvalidRequest``."""
    parameters = document.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest("'parameters' must be an object")
    return parameters
