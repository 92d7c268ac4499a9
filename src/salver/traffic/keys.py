"""The routing key of a request, and where it falls."""

import struct
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from salver.core.context import RequestContext
from salver.core.datatypes import BYTES
from salver.core.request import InferenceRequest
from salver.core.routing import FULL, HEADER, INPUT, PARAMETER
from salver.core.signature import Signature
from salver.core.tensor import Tensor

_MAX_KEY_CHARS: Final = 256
_KEPT_POINTS: Final = 8192
_LENGTH: Final = struct.Struct("<I")


@lru_cache(maxsize=_KEPT_POINTS)
def sticky_point(endpoint: str, key: str, salt: str = "") -> int:
    """Map a routing key to a fixed point in ``[0, 10000)``, evenly over keys."""
    digest = blake2b(f"{endpoint}\0{salt}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") * FULL >> 64


class Cell(NamedTuple):
    """The cell of a table's first row that a column's name means: of so many, this one."""

    table: str
    place: int
    columns: int


Where = tuple[str, str, Cell | None]
"""Where routing keys are: source and name (empty for nowhere), and the cell if that may be one."""


def where_of(source: tuple[str, str], signature: Signature | None) -> Where:
    """Return where keys are, by what the primary version's tables call their columns."""
    kind, name = source
    if kind == INPUT and signature is not None:
        for spec in signature.inputs:
            names = [column.name for column in spec.columns]
            if name in names:
                return kind, name, Cell(spec.name, names.index(name), len(names))
    return kind, name, None


def key_of(request: InferenceRequest, context: RequestContext, where: Where) -> str | None:
    """Return a request's routing key, None if it has none or ``where`` names no source."""
    source, name, cell = where
    if not source:
        return None
    key: str | None = None
    if source == HEADER:
        key = context.headers.get(name) if context.headers is not None else None
    elif source == PARAMETER:
        value = request.parameters.get(name) if request.parameters is not None else None
        key = None if value is None else str(value)
    elif source == INPUT:
        key = _of_input(request.inputs, name, cell)
    return key[:_MAX_KEY_CHARS] if key else None


def _of_input(inputs: Sequence[Tensor], name: str, cell: Cell | None) -> str | None:
    """Return the value of a tensor that is called so, else of a table's column."""
    for tensor in inputs:
        if tensor.name == name:
            return _value(tensor, 0)
    if cell is not None:
        for tensor in inputs:
            if tensor.name == cell.table and _has_columns(tensor, cell.columns):
                return _value(tensor, cell.place)
    return None


def _has_columns(tensor: Tensor, columns: int) -> bool:
    return columns == 1 or tensor.shape[-1:] == (columns,)


def _value(tensor: Tensor, index: int) -> str | None:
    """Return a tensor's value at a place as text; numbers that are equal have the same text."""
    if tensor.datatype == BYTES:
        return _text(tensor, index)
    values = tensor.array().ravel()
    if values.size <= index:
        return None
    item = values[index].item()
    return str(int(item)) if isinstance(item, float) and item.is_integer() else str(item)


def _text(tensor: Tensor, index: int) -> str | None:
    whole = memoryview(tensor.buffer)
    start = 0
    for _ in range(index):
        if whole.nbytes - start < _LENGTH.size:
            return None
        start += _LENGTH.size + _LENGTH.unpack_from(whole, start)[0]
    view = whole[start : start + _LENGTH.size + 4 * _MAX_KEY_CHARS]
    if view.nbytes < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(view)
    return bytes(view[_LENGTH.size : _LENGTH.size + length]).decode(errors="replace")
