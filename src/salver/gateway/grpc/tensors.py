"""Tensors in protobuf messages: raw bytes, or typed contents."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from salver.core.datatypes import BYTES, DATATYPES, DTYPES, ITEM_SIZES
from salver.core.errors import InvalidRequest, InvalidTensor, UnsupportedOperation
from salver.core.settings import HttpSettings
from salver.core.tensor import Buffer, Tensor, encode_bytes
from salver.gateway.oip.body import check_dimensions, check_element_count

CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def inputs_of(message: Any, raw: Sequence[Buffer], settings: HttpSettings) -> list[Tensor]:
    """Return the tensors of a ``ModelInferRequest``.

    Raises ``InvalidRequest``, ``InvalidTensor`` or ``UnsupportedOperation``.
    """
    inputs = message.inputs
    if not inputs:
        raise InvalidRequest("'inputs' must be a list with at least one tensor")
    if len(inputs) > settings.max_tensors:
        raise InvalidRequest(f"{len(inputs)} inputs are over the limit of {settings.max_tensors}")
    if raw and any(item.HasField("contents") for item in inputs):
        raise InvalidRequest("tensors are either in raw_input_contents or in contents, not in both")
    heads = [_head(item, settings) for item in inputs]
    check_element_count(heads, settings.max_objects)
    if raw and len(raw) != len(inputs):
        raise InvalidRequest(f"{len(raw)} raw_input_contents for {len(inputs)} inputs")
    tensors: list[Tensor] = []
    for index, item in enumerate(inputs):
        name, datatype, shape = heads[index]
        buffer = raw[index] if raw else _typed(name, datatype, item.contents)
        tensor = Tensor(name, datatype, shape, buffer)
        tensor.check()
        tensors.append(tensor)
    return tensors


def _head(item: Any, settings: HttpSettings) -> tuple[str, str, tuple[int, ...]]:
    name, datatype = item.name, item.datatype
    if not name:
        raise InvalidRequest("every input needs a name")
    if "shared_memory_region" in item.parameters:
        raise UnsupportedOperation(
            f"input {name!r}: tensors in shared memory are not read; send raw contents"
        )
    if datatype not in ITEM_SIZES and datatype != BYTES:
        raise InvalidTensor(
            f"input {name!r}: datatype {datatype!r} is not one of {', '.join(DATATYPES)}"
        )
    check_dimensions(name, len(item.shape), settings.max_dimensions)
    shape = tuple(item.shape)
    for size in shape:
        if size < 0:
            raise InvalidTensor(f"input {name!r}: dimension {size} is not a size")
    return name, datatype, shape


def _typed(name: str, datatype: str, contents: Any) -> bytes:
    field = CONTENTS.get(datatype)
    if field is None:
        raise InvalidTensor(f"input {name!r}: {datatype} has no typed contents; send it raw")
    used = [described.name for described, _ in contents.ListFields()]
    if any(other != field for other in used):
        raise InvalidTensor(f"input {name!r}: {datatype} belongs in {field}, not in {used[0]}")
    values = getattr(contents, field)
    if datatype == BYTES:
        return encode_bytes(values)
    dtype = DTYPES[datatype]
    wide = np.array(values, np.float64 if dtype.kind == "f" else None)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype(dtype)
    if dtype.kind in "iu" and wide.size and not np.array_equal(narrow, wide):
        raise InvalidTensor(f"input {name!r}: a value does not fit into {datatype}")
    return narrow.tobytes()


def fill_typed(contents: Any, tensor: Tensor) -> bool:
    """Put a tensor into typed contents; False where its datatype has none."""
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        return False
    getattr(contents, field).extend(tensor.array().ravel().tolist())
    return True
