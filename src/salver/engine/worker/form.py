"""What a worker knows of requests by their headers alone, worked out once for each form."""

import math
from typing import NamedTuple

import msgspec
import numpy as np

from salver.core.datatypes import BYTES, DTYPES
from salver.wire.messages import TensorHeader

ALONE: tuple[object, ...] = ()
_MAX_FORMS = 1024
_MAX_TENSORS = 32
_MAX_LENGTH = 1024


class Column(NamedTuple):
    """One input of a request and the place of its bytes in the request's payload.

    ``dtype`` is None for text, and for datatypes that the protocol does not have.
    """

    header: TensorHeader
    dtype: np.dtype[np.generic] | None
    row_shape: tuple[int, ...]
    start: int
    stop: int


class Form(msgspec.Struct, frozen=True, eq=False):
    """The inputs and wanted outputs of a request, and what follows from them.

    ``rows`` is the inputs' common first dimension, 0 where they have none. Requests with equal
    ``key`` may share a batch; ALONE may not. ``size_bytes`` is what the inputs take together.
    ``is_fixed`` tells that no input is text; ``problem`` is not empty where an input cannot have
    the bytes that its header names.
    """

    inputs: tuple[TensorHeader, ...]
    outputs: tuple[str, ...] | None
    columns: tuple[Column, ...]
    rows: int
    key: tuple[object, ...]
    size_bytes: int
    is_fixed: bool
    problem: str


_forms: dict[tuple[object, ...], Form] = {}


def form_of(inputs: tuple[TensorHeader, ...], outputs: tuple[str, ...] | None) -> Form:
    """Return the form of a request: the same object for equal headers, unless they are long."""
    key = (inputs, outputs)
    form = _forms.get(key)
    if form is None:
        form = _made(inputs, outputs)
        names = [header.name for header in inputs] + [*(outputs or ())]
        length = sum(map(len, names)) + sum([len(header.shape) for header in inputs])
        if len(names) <= _MAX_TENSORS and length <= _MAX_LENGTH:
            if len(_forms) >= _MAX_FORMS:
                _forms.clear()
            _forms[key] = form
    return form


def _made(inputs: tuple[TensorHeader, ...], outputs: tuple[str, ...] | None) -> Form:
    columns: list[Column] = []
    position, problem = 0, ""
    for header in inputs:
        stop = position + header.size_bytes
        dtype = DTYPES.get(header.datatype)
        columns.append(Column(header, dtype, header.shape[1:], position, stop))
        problem = problem or _problem(header, dtype)
        position = stop
    rows = _rows(inputs)
    key = ALONE
    if rows > 0:
        alike = [(header.name, header.datatype, header.shape[1:]) for header in inputs]
        key = (*alike, outputs)
    is_fixed = all(column.dtype is not None for column in columns)
    return Form(inputs, outputs, tuple(columns), rows, key, position, is_fixed, problem)


def _problem(header: TensorHeader, dtype: np.dtype[np.generic] | None) -> str:
    if dtype is None:
        if header.datatype != BYTES:
            return f"input {header.name!r} has unknown datatype {header.datatype!r}"
        return "" if header.size_bytes >= 0 else f"input {header.name!r} has less than no bytes"
    size = dtype.itemsize * math.prod(header.shape)
    if size == header.size_bytes and min(header.shape, default=0) >= 0:
        return ""
    return (
        f"input {header.name!r}: {header.size_bytes} bytes do not hold {header.datatype} of shape "
        f"{list(header.shape)}"
    )


def _rows(inputs: tuple[TensorHeader, ...]) -> int:
    """Return the common first dimension, or 0 when there is none."""
    if not inputs or not inputs[0].shape:
        return 0
    rows = inputs[0].shape[0]
    for header in inputs:
        if not header.shape or header.shape[0] != rows:
            return 0
    return rows
