"""A body that an endpoint accepts, made of its signature."""

import math
from typing import Any

from salver.core.datatypes import BYTES
from salver.core.signature import VARIABLE, Column, TensorSpec
from salver.gateway.docs.schemas import category_value

_MAX_VALUES = 4096
_USUAL = 1


def example_body(inputs: tuple[TensorSpec, ...]) -> dict[str, Any] | None:
    """Return a body with one row for each input that is needed, None when it would be very long."""
    needed = [spec for spec in inputs if not spec.optional] or list(inputs)
    if sum(math.prod(_shape(spec)) for spec in needed) > _MAX_VALUES:
        return None
    return {"inputs": [_tensor(spec) for spec in needed]}


def _shape(spec: TensorSpec) -> list[int]:
    return [1 if size == VARIABLE else size for size in spec.shape]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = _shape(spec)
    count = math.prod(shape)
    columns: tuple[Column | None, ...] = spec.columns or (None,)
    values = [_value(spec.datatype, columns[index % len(columns)]) for index in range(count)]
    return {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": values}


def _value(datatype: str, column: Column | None) -> Any:
    """Return an element that its column's categories and range allow."""
    if column is not None and column.categories:
        return category_value(column.categories[0], datatype)
    if datatype == BYTES:
        return "text"
    if datatype == "BOOL":
        return True
    low = high = None
    if column is not None:
        low, high = column.minimum, column.maximum
    value: float = _USUAL
    if high is not None:
        value = min(value, high)
    if low is not None:
        value = max(value, low)
    if datatype.startswith("FP"):
        return value
    return math.ceil(value) if high is None or math.ceil(value) <= high else math.floor(value)
