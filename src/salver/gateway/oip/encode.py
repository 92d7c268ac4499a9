"""From tensors to an answer's body: JSON, or JSON with raw bytes behind it."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import orjson

from salver.core.datatypes import BYTES, DTYPES
from salver.core.errors import NonFiniteOutput
from salver.core.request import JointResponse, Parameters
from salver.core.tensor import Buffer, Tensor

_MAX_HEADS: Final = 4096
_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY

Notes = Mapping[str, Parameters]
_NO_NOTES: Notes = {}

_openings: dict[tuple[str, str], bytes] = {}
_heads: dict[tuple[str, str, tuple[int, ...]], bytes] = {}
_fixed: dict[tuple[object, ...], tuple[bytes, ...]] = {}


def opening(
    model: str, version: str, caller_id: str | None, parameters: Parameters | None = None
) -> bytes:
    """Return the JSON up to the outputs; ``id`` is echoed, or left out when there was none."""
    head = _openings.get((model, version))
    if head is None:
        if len(_openings) >= _MAX_HEADS:
            _openings.clear()
        names = (orjson.dumps(model), orjson.dumps(version))
        head = _openings[(model, version)] = b'{"model_name":%b,"model_version":%b,' % names
    if caller_id is not None:
        head += b'"id":%b,' % orjson.dumps(caller_id)
    if parameters:
        head += b'"parameters":%b,' % orjson.dumps(parameters)
    return head + b'"outputs":['


def encode_json(head: bytes, tensors: list[Tensor], notes: Notes = _NO_NOTES) -> bytes:
    """Return a JSON answer with flat data; ``notes`` are outputs' parameters by name.

    Raises ``NonFiniteOutput`` for NaN and infinity.
    """
    parts = [head]
    for tensor in tensors:
        parts.append(_head(tensor))
        if tensor.name in notes:
            parts.append(b'"parameters":%b,' % orjson.dumps(notes[tensor.name]))
        parts.append(b'"data":')
        parts.append(_data(tensor))
        parts.append(b"},")
    return _closed(parts)


def encode_joint(response: JointResponse) -> list[bytes]:
    """Return for each request what ``encode_json`` gives after its head.

    All are written at once and cut apart, which costs a fraction of writing each. Raises
    ``NonFiniteOutput`` when any of them has a value that JSON cannot carry.
    """
    fixed, data = joint_fixed(response), joint_data(response)
    if not data:
        return [*fixed] * len(response.timings)
    return [joint_text(texts, fixed) for texts in zip(*data, strict=True)]


def joint_text(data: Sequence[bytes], fixed: tuple[bytes, ...]) -> bytes:
    """Return the rest of one answer, of the data of its outputs."""
    parts = [fixed[0]]
    for text, after in zip(data, fixed[1:], strict=True):
        parts += (text, after)
    return b"".join(parts)


def joint_data(response: JointResponse) -> list[list[bytes]]:
    """Return for each output what stands between the brackets of its data in each answer.

    Raises ``NonFiniteOutput`` when any of them has a value that JSON cannot carry.
    """
    count = len(response.timings)
    columns: list[list[bytes]] = []
    for tensor in response.outputs:
        dtype = DTYPES[tensor.datatype]
        shape = (count, tensor.size_bytes // dtype.itemsize // count)
        array = np.ndarray(shape, dtype, tensor.buffer)
        text = orjson.dumps(array, option=_NUMPY)
        if b"n" in text:
            _finite(tensor, text)
        columns.append(text[2:-2].split(b"],["))
    return columns


def joint_fixed(response: JointResponse) -> tuple[bytes, ...]:
    """Return what stands before, between and after the data of all outputs, in every answer."""
    key = (response.rows, *[(one.name, one.datatype, one.shape[1:]) for one in response.outputs])
    fixed = _fixed.get(key)
    if fixed is None:
        if len(_fixed) >= _MAX_HEADS:
            _fixed.clear()
        heads = [
            _shaped(one.name, one.datatype, (response.rows, *one.shape[1:])) + b'"data":['
            for one in response.outputs
        ]
        ends = [b"]},"] * (len(heads) - 1) + [b"]}]}"]
        later = [end + head for end, head in zip(ends, [*heads[1:], b""], strict=True)]
        fixed = _fixed[key] = (heads[0], *later) if heads else (b"]}",)
    return fixed


def encode_mixed(
    head: bytes,
    tensors: list[Tensor],
    binary: dict[str, bool],
    notes: Notes = _NO_NOTES,
    *,
    default: bool,
) -> tuple[bytes, list[Buffer]]:
    """Return the JSON part and the raw bytes of the outputs that shall be binary."""
    parts = [head]
    raw: list[Buffer] = []
    for tensor in tensors:
        parts.append(_head(tensor))
        parameters = notes.get(tensor.name, {})
        if binary.get(tensor.name, default):
            parameters = {**parameters, "binary_data_size": tensor.size_bytes}
            parts.append(b'"parameters":%b},' % orjson.dumps(parameters))
            raw.append(tensor.buffer)
            continue
        if parameters:
            parts.append(b'"parameters":%b,' % orjson.dumps(parameters))
        parts.append(b'"data":%b},' % _data(tensor))
    return _closed(parts), raw


def _closed(parts: list[bytes]) -> bytes:
    if len(parts) > 1:
        parts[-1] = parts[-1][:-1]
    parts.append(b"]}")
    return b"".join(parts)


def _head(tensor: Tensor) -> bytes:
    return _shaped(tensor.name, tensor.datatype, tensor.shape)


def _shaped(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """Return the JSON of an output up to its data."""
    key = (name, datatype, shape)
    head = _heads.get(key)
    if head is None:
        if len(_heads) >= _MAX_HEADS:
            _heads.clear()
        document = {"name": name, "datatype": datatype, "shape": shape}
        head = _heads[key] = orjson.dumps(document)[:-1] + b","
    return head


def _data(tensor: Tensor) -> bytes:
    if tensor.datatype == BYTES:
        items = [item.decode(errors="surrogateescape") for item in tensor.array().ravel()]
        try:
            return orjson.dumps(items)
        except TypeError as error:
            raise NonFiniteOutput(
                f"output {tensor.name!r} has bytes that are not UTF-8, which JSON cannot carry; "
                "ask for binary data"
            ) from error
    array = np.frombuffer(tensor.buffer, DTYPES[tensor.datatype])
    return _finite(tensor, orjson.dumps(array, option=_NUMPY))


def _finite(tensor: Tensor, data: bytes) -> bytes:
    # orjson writes NaN and infinity as null, and no number contains an n; true and false do not
    # occur in floats.
    if tensor.datatype.startswith("FP") and b"n" in data:
        raise NonFiniteOutput(
            f"output {tensor.name!r} has NaN or infinite values, which JSON cannot carry; ask for "
            "binary data, or look at the inputs"
        )
    return data
