"""Inputs made up from a signature: seeded, and within declared ranges and categories."""

import math
from collections.abc import Sequence

import numpy as np

from salver.core.datatypes import BYTES, DTYPES
from salver.core.errors import InvalidExample
from salver.core.signature import VARIABLE, Column, Signature, TensorSpec
from salver.core.tensor import AnyArray, Tensor

_MAX_ELEMENTS = 16_777_216
_WORDS = ("blue", "bread", "cloud", "green", "house", "light", "river", "stone")
_WHOLE_NUMBERS = 10
_WIDTH = 1.0


def make_up(signature: Signature, rows: int, generator: np.random.Generator) -> list[Tensor]:
    """Return the needed inputs with random values.

    A leading variable dimension is ``rows``, any other is 1. Raises ``InvalidExample`` where that
    would be too large to send.
    """
    needed = [spec for spec in signature.inputs if not spec.optional] or list(signature.inputs)
    shapes = [_shape(spec, rows) for spec in needed]
    if sum(math.prod(shape) for shape in shapes) > _MAX_ELEMENTS:
        raise InvalidExample(
            f"made-up inputs would have over {_MAX_ELEMENTS} values; take fewer --rows, or give a "
            "file with a request"
        )
    return [
        Tensor.from_array(spec.name, _values(spec, shape, generator))
        for spec, shape in zip(needed, shapes, strict=True)
    ]


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    return tuple(
        size if size != VARIABLE else rows if axis == 0 else 1
        for axis, size in enumerate(spec.shape)
    )


def _values(spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator) -> AnyArray:
    count = math.prod(shape)
    columns: Sequence[Column | None] = spec.columns or (None,)
    dtype = np.dtype(object) if spec.datatype == BYTES else DTYPES[spec.datatype]
    array = np.empty(count, dtype)
    for offset, column in enumerate(columns):
        part = array[offset :: len(columns)]
        part[:] = _column(spec.datatype, column, len(part), generator)
    return array.reshape(shape)


def _column(
    datatype: str, column: Column | None, count: int, generator: np.random.Generator
) -> AnyArray:
    if column is not None and column.categories:
        chosen = np.array(column.categories, dtype=object)[
            generator.integers(0, len(column.categories), count)
        ]
        return chosen if datatype == BYTES else chosen.astype(DTYPES[datatype])
    if datatype == BYTES:
        return np.array(_WORDS, dtype=object)[generator.integers(0, len(_WORDS), count)]
    dtype = DTYPES[datatype]
    if dtype.kind == "b":
        return generator.integers(0, 2, count).astype(dtype)
    low, high = _range(column, float(_WHOLE_NUMBERS) if dtype.kind in "iu" else _WIDTH)
    if dtype.kind == "f":
        # Rounding to a shorter type must not leave the range.
        return np.clip(generator.uniform(low, high, count).astype(dtype), low, high)
    first, last = math.ceil(low), max(math.floor(high), math.ceil(low))
    return generator.integers(first, last, count, endpoint=True).astype(dtype)


def _range(column: Column | None, width: float) -> tuple[float, float]:
    low = column.minimum if column is not None else None
    high = column.maximum if column is not None else None
    if low is None:
        low = 0.0 if high is None or high > 0 else high - width
    if high is None:
        high = low + width
    return low, high
