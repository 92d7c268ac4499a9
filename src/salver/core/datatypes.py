"""The Open Inference Protocol's datatypes and what they are in numpy.

``BYTES`` has no fixed size: each element is a 32-bit little-endian length and that many bytes.
"""

import math

import numpy as np

from salver.core.errors import InvalidTensor

BYTES = "BYTES"

DTYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}

ITEM_SIZES: dict[str, int] = {name: dtype.itemsize for name, dtype in DTYPES.items()}

DATATYPES: tuple[str, ...] = (*DTYPES, BYTES)

_NAMES: dict[np.dtype[np.generic], str] = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(dtype: np.dtype[np.generic]) -> str:
    """Return the protocol's name for a numpy dtype; strings and objects are ``BYTES``.

    Raises ``InvalidTensor`` for dtypes the protocol cannot carry (complex, dates).
    """
    name = _NAMES.get(dtype)
    if name is None and dtype.kind in "iuf":
        name = _NAMES.get(dtype.newbyteorder("<"))
    if name is not None:
        return name
    if dtype.kind in "OSU":
        return BYTES
    raise InvalidTensor(
        f"numpy dtype {dtype} has no datatype in the protocol; cast it to one of "
        f"{', '.join(DATATYPES)}"
    )


def size_of_elements(datatype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes that a tensor of a fixed-size datatype takes."""
    return ITEM_SIZES[datatype] * math.prod(shape)
