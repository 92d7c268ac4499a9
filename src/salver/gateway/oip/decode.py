"""From a request's body to tensors: JSON, and JSON with raw bytes behind it.

Three ways read JSON: a plain one, a typed one for short flat lists of numbers, and pysimdjson for
large ones. All give the same tensors or the same refusal.
"""

import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import simdjson

from salver.core.datatypes import BYTES, DATATYPES, DTYPES, ITEM_SIZES
from salver.core.errors import InvalidRequest, InvalidTensor
from salver.core.request import InferenceRequest, InferenceResponse, RequestForm, form_of
from salver.core.settings import HttpSettings
from salver.core.tensor import Buffer, Tensor, encode_bytes
from salver.gateway.oip.body import (
    check_dimensions,
    check_element_count,
    check_json,
    parameters_of,
    parse_object,
)
from salver.gateway.oip.content_types.asked import ContentTypes, read_content_types
from salver.gateway.oip.reading import Target
from salver.gateway.triton.parameters import class_count, custom_parameters, tensor_parameters

_FORMATS = {
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP16": "e", "FP32": "f", "FP64": "d", "BOOL": "?",
}  # fmt: skip
_NUMERIC = frozenset(_FORMATS) - {"BOOL"}
_FLOATS = frozenset(("FP16", "FP32", "FP64"))
_NUMBER_TYPES = frozenset((int, float))
_INT_TYPES = frozenset((int,))
_BOOL_TYPES = frozenset((bool,))
_MAX_PACKERS = 4096
_MAX_PACKINGS = 1024
_MAX_KEPT_NAME = 128
_SIMD_BYTES = 16 * 1024
# What simdjson counts in 24 bits; pysimdjson writes past the end of a longer list.
_SIMD_ELEMENTS = 0xFFFFFF

_packers: dict[tuple[str, int], struct.Struct] = {}


class Packing(msgspec.Struct, frozen=True):
    """How the numbers of one input become bytes, and the form of a request with no other."""

    length: int
    pack: Callable[..., bytes]
    form: RequestForm


_packings: dict[tuple[str, str, tuple[int, ...]], Packing] = {}


class _Input(msgspec.Struct, gc=False):
    """An input in its most frequent form: a flat list of numbers."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[int | float]
    parameters: msgspec.UnsetType | dict[str, Any] = msgspec.UNSET


class UsualBody(msgspec.Struct, gc=False):
    """A body in its most frequent form; anything else is read the general way."""

    inputs: list[_Input]
    id: str | None = None
    parameters: msgspec.UnsetType | dict[str, Any] = msgspec.UNSET
    outputs: msgspec.UnsetType | list[Any] = msgspec.UNSET


_typed = msgspec.json.Decoder(UsualBody)


class Decoded(msgspec.Struct, eq=False):
    """A request and how its answer shall look: binary by default, or output by output.

    ``classes`` says of which outputs only the highest values are wanted, and how many.
    ``write`` gives the answer's body in another dialect than the protocol's own.
    """

    request: InferenceRequest
    caller_id: str | None
    binary_default: bool = False
    outputs: dict[str, bool] | None = None
    classes: dict[str, int] | None = None
    contents: ContentTypes | None = None
    write: "Callable[[InferenceResponse], bytes] | None" = None


def decode_json(
    body: Buffer, target: Target, settings: HttpSettings, mode: str = "auto"
) -> Decoded:
    """Read a JSON body; ``mode`` is auto, or plain for the obvious way.

    Raises ``InvalidJson``, ``InvalidRequest``, ``InvalidTensor`` or ``BodyTooLarge``.
    """
    check_json(body, settings)
    if mode == "auto":
        if len(body) >= _SIMD_BYTES:
            return _request(_parse_large(body), b"", target, settings, mode)
        usual = _usual(body, target, settings)
        if usual is not None:
            return usual
    return _request(parse_object(body), b"", target, settings, mode)


Member = tuple[RequestForm, bytes, str | None]
"""A usual request as one of many: its form, its inputs back to back, its caller's id."""


def decode_member(body: Buffer, settings: HttpSettings) -> Member | None:
    """Read a body of flat numeric inputs and nothing special; None for any other."""
    document = usual_body(body) if len(body) < _SIMD_BYTES else None
    if document is None:
        return None
    inputs = document.inputs
    if len(inputs) == 1 and (packed := _packed(inputs[0], settings)) is not None:
        return packed[1].form, packed[0], document.id
    flat = _flat(document, settings)
    if flat is None:
        return None
    return form_of(_general("", None, flat)), b"".join(flat[1]), document.id


def _usual(body: Buffer, target: Target, settings: HttpSettings) -> Decoded | None:
    """Read a body of flat numeric inputs and nothing special, or leave it to the general way."""
    document = usual_body(body)
    flat = None if document is None else _flat(document, settings)
    if flat is None:
        return None
    return Decoded(_general(target.endpoint, target.version, flat), flat[0].id)


_Flat = tuple[UsualBody, list[bytes], Packing]


def _general(endpoint: str, version: str | None, flat: _Flat) -> InferenceRequest:
    document, packed, packing = flat
    tensors = [
        Tensor(item.name, item.datatype, item.shape, buffer)
        for item, buffer in zip(document.inputs, packed, strict=True)
    ]
    form = packing.form if len(packed) == 1 else None
    return InferenceRequest(endpoint, tensors, version, None, None, form)


def usual_body(body: Buffer) -> UsualBody | None:
    """Return a body that asks for nothing special, None for any other."""
    try:
        if not (type(body) is bytes and body.isascii()):
            # The typed decoder does not look into what it skips, and JSON is UTF-8 throughout.
            str(body, "utf-8")
        document = _typed.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    special = document.parameters is not msgspec.UNSET or document.outputs is not msgspec.UNSET
    return None if special else document


def _flat(document: UsualBody, settings: HttpSettings) -> _Flat | None:
    """Return what a body says, its inputs as bytes, and the packing of the last of them."""
    found: list[bytes] = []
    packing: Packing | None = None
    for item in document.inputs:
        packed = _packed(item, settings)
        if packed is None:
            return None
        found.append(packed[0])
        packing = packed[1]
    if packing is None or len(found) > settings.max_tensors:
        return None
    return document, found, packing


def _packed(item: _Input, settings: HttpSettings) -> tuple[bytes, Packing] | None:
    """Return an input as bytes; None where it is not a flat list of numbers that fit."""
    shape, data = item.shape, item.data
    if len(shape) > settings.max_dimensions or item.parameters is not msgspec.UNSET:
        return None
    packing = packing_of(item.name, item.datatype, shape)
    if packing is None or packing.length != len(data):
        return None
    try:
        return packing.pack(*data), packing
    except (struct.error, OverflowError):
        return None


def packing_of(name: str, datatype: str, shape: tuple[int, ...]) -> Packing | None:
    """Return how flat numbers of a datatype and shape are packed; None where they are not."""
    key = (name, datatype, shape)
    return _packings.get(key) or _packing(*key)


def _packing(name: str, datatype: str, shape: tuple[int, ...]) -> Packing | None:
    if datatype not in _NUMERIC or min(shape, default=0) < 0:
        return None
    count = math.prod(shape)
    if count > _SIMD_BYTES:
        # No body that is read this way has so many numbers.
        return None
    if len(name) > _MAX_KEPT_NAME:
        # Long names are read the general way, which keeps nothing.
        return None
    if len(_packings) >= _MAX_PACKINGS:
        _packings.clear()
    alone = InferenceRequest(
        "", [Tensor(name, datatype, shape, bytes(count * ITEM_SIZES[datatype]))]
    )
    packing = Packing(count, _packer(datatype, count).pack, form_of(alone))
    _packings[(name, datatype, shape)] = packing
    return packing


def decode_binary(
    body: Buffer, json_length: int, target: Target, settings: HttpSettings
) -> Decoded:
    """Read a body of ``json_length`` bytes of JSON and raw tensor bytes after it."""
    view = memoryview(body)
    if not 0 < json_length <= view.nbytes:
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {json_length}, the body has {view.nbytes} bytes"
        )
    head = view[:json_length]
    check_json(head, settings)
    document = parse_object(bytes(head))
    return _request(document, view[json_length:], target, settings, "auto")


def _parse_large(body: Buffer) -> dict[str, Any]:
    """Parse with simdjson; large flat lists stay unconverted until their datatype is known."""
    text = bytes(body)
    if len(text) > 2 * _SIMD_ELEMENTS and text.count(b",") >= _SIMD_ELEMENTS:
        return parse_object(body)
    try:
        root = simdjson.Parser().parse(text)
    except (ValueError, RuntimeError):
        # Not JSON, or integers beyond 64 bits, which the other ways read: they decide.
        return parse_object(body)
    if not isinstance(root, simdjson.Object):
        raise InvalidRequest("the body must be a JSON object with 'inputs'")
    document = _unconverted(root, text.count(b"["))
    return root.as_dict() if document is None else document


def _unconverted(root: Any, brackets: int) -> dict[str, Any] | None:
    """Return the document with lists of numbers left to simdjson; None where that is not safe.

    simdjson finds the first of two equal keys, and ``as_buffer`` flattens nested lists without a
    word. So keys must differ, and the lists seen here must account for every bracket of the body.
    """
    keys = list(root.keys())
    if len(set(keys)) != len(keys) or "inputs" not in keys:
        return None
    entries = root["inputs"]
    document = {key: _converted(root[key]) for key in keys if key != "inputs"}
    if not isinstance(entries, simdjson.Array) or len(entries) * 2 > brackets:
        return None
    inputs: list[dict[str, Any]] = []
    seen = 1 + isinstance(document.get("outputs"), list)
    for index in range(len(entries)):
        entry: Any = entries[index]
        names: list[str] = list(entry.keys()) if isinstance(entry, simdjson.Object) else []
        if not names or len(set(names)) != len(names):
            return None
        values = {name: entry[name] for name in names}
        seen += sum(isinstance(value, simdjson.Array) for value in values.values())
        inputs.append(
            {
                name: value if name == "data" and _is_number_list(value) else _converted(value)
                for name, value in values.items()
            }
        )
    document["inputs"] = inputs
    return document if seen == brackets else None


def _converted(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _is_number_list(value: Any) -> bool:
    return isinstance(value, simdjson.Array) and len(value) > 0 and type(value[0]) in _NUMBER_TYPES


def _request(
    document: dict[str, Any], rest: Buffer, target: Target, settings: HttpSettings, mode: str
) -> Decoded:
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidRequest("'inputs' must be a list with at least one tensor")
    if len(inputs) > settings.max_tensors:
        raise InvalidRequest(f"{len(inputs)} inputs are over the limit of {settings.max_tensors}")
    parameters = parameters_of(document)
    caller_id = document.get("id")
    if caller_id is not None and not isinstance(caller_id, str):
        raise InvalidRequest("'id' must be text")
    contents = read_content_types(document)
    if contents is None:
        tensors = _tensors(inputs, rest, settings, mode)
    else:
        tensors = contents.decoded(_tensors(contents.prepared(inputs), rest, settings, mode))
    binary_default = bool(parameters and parameters.get("binary_data_output"))
    outputs, classes = _outputs(document.get("outputs"), binary_default=binary_default)
    request = InferenceRequest(
        target.endpoint,
        tensors,
        target.version,
        None if outputs is None else tuple(outputs),
        custom_parameters(parameters) if parameters else None,
        lay_out=None if contents is None else contents.lay_out,
    )
    return Decoded(request, caller_id, binary_default, outputs, classes, contents)


def _tensors(inputs: list[Any], rest: Buffer, settings: HttpSettings, mode: str) -> list[Tensor]:
    tensors: list[Tensor] = []
    position = 0
    heads = [_head(item, settings) for item in inputs]
    check_element_count(heads, settings.max_objects)
    for item, (name, datatype, shape) in zip(inputs, heads, strict=True):
        parameters = tensor_parameters(f"input {name!r}", item)
        size = parameters.get("binary_data_size")
        if size is None:
            tensors.append(from_list(name, datatype, shape, item.get("data"), mode))
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - position:
            raise InvalidTensor(
                f"input {name!r}: binary_data_size is {size!r}, {len(rest) - position} bytes follow"
            )
        tensor = Tensor(name, datatype, shape, rest[position : position + size])
        tensor.check()
        tensors.append(tensor)
        position += size
    if position != len(rest):
        raise InvalidTensor(f"{len(rest) - position} bytes after the last tensor")
    return tensors


def _head(item: Any, settings: HttpSettings) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(item, dict):
        raise InvalidRequest("every input must be an object with name, shape and datatype")
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str):
        raise InvalidRequest("every input needs a 'name'")
    if not isinstance(datatype, str) or (datatype not in ITEM_SIZES and datatype != BYTES):
        raise InvalidTensor(
            f"input {name!r}: datatype {datatype!r} is not one of {', '.join(DATATYPES)}"
        )
    if not isinstance(shape, list):
        raise InvalidTensor(f"input {name!r}: 'shape' must be a list of sizes")
    check_dimensions(name, len(shape), settings.max_dimensions)
    for size in shape:
        if type(size) is not int or size < 0:
            raise InvalidTensor(f"input {name!r}: dimension {size!r} is not a size")
    return name, datatype, tuple(shape)


def from_list(name: str, datatype: str, shape: tuple[int, ...], data: Any, mode: str) -> Tensor:
    """Return a tensor of values, flat or nested as the shape says; raises ``InvalidTensor``."""
    count = math.prod(shape)
    if isinstance(data, simdjson.Array):
        return _from_simd(name, datatype, shape, data)
    if not isinstance(data, list):
        raise InvalidTensor(f"input {name!r}: 'data' must be a list")
    if data and type(data[0]) is list:
        data = _flatten(name, data, shape)
    if len(data) != count:
        raise InvalidTensor(
            f"input {name!r}: {len(data)} values for shape {list(shape)}, which takes {count}"
        )
    if datatype == BYTES:
        return Tensor(name, datatype, shape, _text(name, data))
    _check_types(name, datatype, data)
    try:
        if mode == "plain":
            return Tensor(name, datatype, shape, _checked_array(datatype, data).tobytes())
        return Tensor(name, datatype, shape, _packer(datatype, count).pack(*data))
    except (struct.error, OverflowError, ValueError) as error:
        raise _out_of_range(name, datatype) from error


def _out_of_range(name: str, datatype: str) -> InvalidTensor:
    return InvalidTensor(f"input {name!r}: a value does not fit into {datatype}")


def _packer(datatype: str, count: int) -> struct.Struct:
    key = (datatype, count)
    packer = _packers.get(key)
    if packer is None:
        if len(_packers) >= _MAX_PACKERS:
            _packers.clear()
        packer = _packers[key] = struct.Struct(f"<{count}{_FORMATS[datatype]}")
    return packer


def _checked_array(datatype: str, data: list[Any]) -> "np.ndarray[Any, Any]":
    """The obvious way: let numpy convert, and refuse what did not survive it."""
    dtype = DTYPES[datatype]
    if datatype in _FLOATS:
        with np.errstate(over="ignore"):
            array = np.array([float(value) for value in data], np.float64).astype(dtype)
        # JSON has no infinity, so one was made of a number; NaN stands for null where it may.
        if np.isinf(array).any():
            raise OverflowError
        return array
    return np.array(data, dtype)


def _check_types(name: str, datatype: str, data: list[Any]) -> None:
    types = set(map(type, data))
    if datatype in _FLOATS:
        allowed = _NUMBER_TYPES
    else:
        allowed = _BOOL_TYPES if datatype == "BOOL" else _INT_TYPES
    if not types <= allowed:
        found = ", ".join(sorted(kind.__name__ for kind in types - allowed))
        raise InvalidTensor(f"input {name!r}: {found} among the values of a {datatype} tensor")


def _from_simd(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    if datatype not in ("FP32", "FP64"):
        return from_list(name, datatype, shape, data.as_list(), "auto")
    try:
        values = np.frombuffer(data.as_buffer(of_type="d"), np.float64)
    except TypeError as error:
        raise InvalidTensor(
            f"input {name!r}: something else than numbers among the values of a {datatype} tensor"
        ) from error
    if values.size != math.prod(shape):
        raise InvalidTensor(
            f"input {name!r}: {values.size} values for shape {list(shape)}, which takes "
            f"{math.prod(shape)}"
        )
    if datatype == "FP64":
        return Tensor(name, datatype, shape, values.tobytes())
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if not np.isfinite(single).all():
        raise _out_of_range(name, datatype)
    return Tensor(name, datatype, shape, single.tobytes())


def _flatten(name: str, data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """Unnest lists whose nesting is exactly the shape's."""
    level = data
    for depth in range(len(shape) - 1):
        expected = math.prod(shape[: depth + 1])
        if len(level) != expected:
            raise InvalidTensor(
                f"input {name!r}: {len(level)} lists at depth {depth} for shape {list(shape)}"
            )
        following: list[Any] = []
        for item in level:
            if type(item) is not list or len(item) != shape[depth + 1]:
                raise InvalidTensor(f"input {name!r}: the nesting is not that of {list(shape)}")
            following.extend(item)
        level = following
    return level


def _text(name: str, data: list[Any]) -> bytes:
    for item in data:
        if type(item) is not str:
            raise InvalidTensor(f"input {name!r}: elements of a BYTES tensor must be text")
    return encode_bytes(data)


def _outputs(
    outputs: Any, *, binary_default: bool
) -> tuple[dict[str, bool] | None, dict[str, int] | None]:
    if outputs is None or outputs == []:
        return None, None
    if not isinstance(outputs, list):
        raise InvalidRequest("'outputs' must be a list of objects with a name")
    wanted: dict[str, bool] = {}
    classes: dict[str, int] = {}
    for item in outputs:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise InvalidRequest("every entry of 'outputs' needs a 'name'")
        parameters = tensor_parameters(f"output {name!r}", item)
        binary = parameters.get("binary_data")
        wanted[name] = binary_default if binary is None else bool(binary)
        classes[name] = class_count(name, parameters)
    return wanted, {name: count for name, count in classes.items() if count} or None
