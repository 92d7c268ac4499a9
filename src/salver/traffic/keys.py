"""The routing key of a request, and where it falls."""

import struct
from functools import lru_cache
from hashlib import blake2b

from salver.core.context import RequestContext
from salver.core.datatypes import BYTES
from salver.core.request import InferenceRequest
from salver.core.routing import FULL, HEADER, INPUT, PARAMETER
from salver.core.tensor import Tensor

_MAX_KEY_CHARS = 256
_KEPT_POINTS = 8192
_LENGTH = struct.Struct("<I")


@lru_cache(maxsize=_KEPT_POINTS)
def sticky_point(endpoint: str, key: str, salt: str = "") -> int:
    """Map a routing key to a fixed point in ``[0, 10000)``, evenly over keys."""
    digest = blake2b(f"{endpoint}\0{salt}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") * FULL >> 64


def key_of(
    request: InferenceRequest, context: RequestContext, where: tuple[str, str]
) -> str | None:
    """Return a request's routing key, None if it has none or ``where`` (source, name) is empty."""
    source, name = where
    if not source:
        return None
    key: str | None = None
    if source == HEADER:
        key = context.headers.get(name) if context.headers is not None else None
    elif source == PARAMETER:
        value = request.parameters.get(name) if request.parameters is not None else None
        key = None if value is None else str(value)
    elif source == INPUT:
        key = next((_first(t) for t in request.inputs if t.name == name), None)
    return key[:_MAX_KEY_CHARS] if key else None


def _first(tensor: Tensor) -> str | None:
    """Return a tensor's first value as text; numbers that are equal have the same text."""
    if tensor.datatype == BYTES:
        view = memoryview(tensor.buffer)[: _LENGTH.size + 4 * _MAX_KEY_CHARS]
        if view.nbytes < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(view)
        return bytes(view[_LENGTH.size : _LENGTH.size + length]).decode(errors="replace")
    values = tensor.array().ravel()
    if not values.size:
        return None
    item = values[0].item()
    return str(int(item)) if isinstance(item, float) and item.is_integer() else str(item)
