"""What is known of a batch's outputs before a look at their values, worked out once."""

import math

import numpy as np

from salver.core.datatypes import BYTES, DTYPES, datatype_of
from salver.core.errors import ModelFailed
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch
from salver.wire.framing import Buffer
from salver.wire.messages import TensorHeader

_MAX_HEADS = 256
_MAX_ROWS_KNOWN = 64
_AS_IT_TRAVELS = frozenset(DTYPES.values())

_Output = tuple[str, np.dtype[np.generic], tuple[int, ...]]
_Key = tuple[_Output, ...]


class Heads:
    """Names, datatypes and row shapes of outputs; ``row_bytes`` is what a row of all takes.

    ``is_text`` tells that some elements have lengths of their own; such outputs have no headers
    before their values are known.
    """

    __slots__ = ("_columns", "_headers", "_plain", "is_text", "row_bytes")

    def __init__(self, key: _Key) -> None:
        self._columns = [(name, datatype_of(dtype), shape) for name, dtype, shape in key]
        self.is_text = any(datatype == BYTES for _, datatype, _ in self._columns)
        self._headers: dict[int, tuple[TensorHeader, ...]] = {}
        sizes = [0 if self.is_text else _row_bytes(d, shape) for _, d, shape in self._columns]
        self.row_bytes = sum(sizes)
        self._plain = not self.is_text and all(dtype in _AS_IT_TRAVELS for _, dtype, _ in key)

    def headers(self, rows: int) -> tuple[TensorHeader, ...]:
        """Return the headers of an answer of so many rows."""
        headers = self._headers.get(rows)
        if headers is None:
            if len(self._headers) >= _MAX_ROWS_KNOWN:
                self._headers.clear()
            headers = self._headers[rows] = tuple(
                TensorHeader(name, datatype, (rows, *shape), rows * _row_bytes(datatype, shape))
                for name, datatype, shape in self._columns
            )
        return headers

    def raw(self, outputs: Batch) -> list[Buffer]:
        """Return the bytes of each output as they travel."""
        if self._plain:
            return [array.tobytes() for array in outputs.values()]
        return [
            array.astype(DTYPES[datatype]).tobytes()
            for array, (_, datatype, _) in zip(outputs.values(), self._columns, strict=True)
        ]


_known: dict[_Key, Heads] = {}


def heads_of(outputs: Batch, rows: int) -> Heads:
    """Return the heads of outputs, the same object for all that differ in rows and values only.

    Raises ``ModelFailed`` for an output that has not so many rows, and ``InvalidTensor`` for one
    of a datatype that the protocol does not have.
    """
    found: list[_Output] = []
    for name, array in outputs.items():
        shape = array.shape
        if not shape or shape[0] != rows:
            raise _wrong_rows(name, array, rows)
        found.append((name, array.dtype, shape[1:]))
    key = tuple(found)
    heads = _known.get(key)
    if heads is None:
        if len(_known) >= _MAX_HEADS:
            _known.clear()
        heads = _known[key] = Heads(key)
    return heads


def _row_bytes(datatype: str, row_shape: tuple[int, ...]) -> int:
    return DTYPES[datatype].itemsize * math.prod(row_shape)


def _wrong_rows(name: str, array: AnyArray, rows: int) -> ModelFailed:
    return ModelFailed(
        f"output {name!r} has shape {list(array.shape)} for a batch of {rows} rows; "
        "deploy with --max-batch-size 1"
    )
