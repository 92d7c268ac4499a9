"""From tensors to an answer in rows (`predictions`) or columns (`outputs`).

The only output stands by itself; several are objects by name. Bytes are text, or
``{"b64": "…"}`` where they are not UTF-8 or the output's name ends with ``_bytes``.
"""

import base64
from typing import Any

import numpy as np
import orjson

from salver.core.datatypes import BYTES
from salver.core.errors import InvalidRequest, NonFiniteOutput
from salver.core.request import InferenceResponse
from salver.core.tensor import Tensor

_BINARY_SUFFIX = "_bytes"


def encode_rows(count: int, response: InferenceResponse) -> bytes:
    """Return the answer to so many instances.

    Raises ``NonFiniteOutput`` for NaN and infinity, and ``InvalidRequest`` where an output has not
    one row for each instance.
    """
    for tensor in response.outputs:
        if tensor.shape[:1] != (count,):
            raise InvalidRequest(
                f"output {tensor.name!r} of shape {list(tensor.shape)} has not one row for each of "
                f"{count} instances; send 'inputs' instead"
            )
    values = {tensor.name: _values(tensor) for tensor in response.outputs}
    if len(values) == 1:
        return _document("predictions", next(iter(values.values())), response)
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return _document("predictions", rows, response)


def encode_columns(response: InferenceResponse) -> bytes:
    """Return the answer with whole tensors; raises ``NonFiniteOutput`` for NaN and infinity."""
    values = {tensor.name: _values(tensor) for tensor in response.outputs}
    only = next(iter(values.values())) if len(values) == 1 else values
    return _document("outputs", only, response)


def _document(key: str, value: Any, response: InferenceResponse) -> bytes:
    document = {key: value}
    if response.parameters:
        document["parameters"] = response.parameters
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _values(tensor: Tensor) -> Any:
    """Return what orjson writes as nested lists: an array, or lists where it would refuse one."""
    array = tensor.array()
    if tensor.datatype == BYTES:
        always = tensor.name.endswith(_BINARY_SUFFIX)
        texts = np.empty(array.size, object)
        texts[:] = [_text(item, always=always) for item in array.ravel()]
        return texts.reshape(array.shape).tolist()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NonFiniteOutput(
            f"output {tensor.name!r} has NaN or infinite values, which JSON cannot carry; look at "
            "the inputs, or ask /v2 for binary data"
        )
    if not array.size:
        return array.tolist()
    return array if array.ndim else array[()]


def _text(item: bytes, *, always: bool) -> str | dict[str, str]:
    if not always:
        try:
            return item.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(item).decode()}
