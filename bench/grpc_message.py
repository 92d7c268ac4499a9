"""ModelInfer's messages with raw contents, written and read with the standard library alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

PATH = "/inference.GRPCInferenceService/ModelInfer"
PREFIX_BYTES = 5
"""Before each message: whether it is compressed, and its length."""
_NUMBER, _BYTES = 0, 2
_FORMATS = {"FP32": "f", "INT64": "q"}

Value = int | bytes | memoryview


def infer_request(model: str, name: str, shape: Sequence[int], raw: bytes) -> bytes:
    """Return a ModelInferRequest with one FP32 input as raw contents, without prefix."""
    tensor = bytes_field(1, name.encode()) + bytes_field(2, b"FP32")
    tensor += bytes_field(3, b"".join(_varint(size) for size in shape))
    return bytes_field(1, model.encode()) + bytes_field(5, tensor) + bytes_field(7, raw)


def infer_answer_head(model: str, outputs: Sequence[tuple[str, str, Sequence[int]]]) -> bytes:
    """Return what stands before the raw contents in a ModelInferResponse.

    `outputs` holds name, datatype and shape of each.
    """
    head = bytes_field(1, model.encode())
    for name, datatype, shape in outputs:
        sizes = b"".join(_varint(size) for size in shape)
        tensor = bytes_field(1, name.encode()) + bytes_field(2, datatype.encode())
        head += bytes_field(5, tensor + bytes_field(3, sizes))
    return head


def with_prefix(message: bytes) -> bytes:
    """Return a message as it travels in DATA frames."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def raw_outputs(message: bytes) -> dict[str, tuple[str, memoryview]]:
    """Return datatype and raw contents by output name. Raises `ValueError` for typed contents."""
    heads = []
    raw = []
    for number, value in _fields(memoryview(message)):
        if number == 5 and not isinstance(value, int):
            fields = dict(_fields(memoryview(value)))
            heads.append((_text(fields[1]), _text(fields[2])))
        elif number == 6 and not isinstance(value, int):
            raw.append(memoryview(value))
    if len(heads) != len(raw):
        raise ValueError(f"{len(heads)} outputs came with {len(raw)} raw contents")
    return {name: (datatype, data) for (name, datatype), data in zip(heads, raw, strict=True)}


def numbers(datatype: str, raw: memoryview) -> list[float]:
    """Return the values of raw contents."""
    letter = _FORMATS[datatype]
    return list(struct.unpack(f"<{len(raw) // struct.calcsize('<' + letter)}{letter}", raw))


def bytes_field(number: int, value: bytes) -> bytes:
    """Return one field of bytes, text or an inner message."""
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _text(value: Value) -> str:
    if isinstance(value, int):
        raise TypeError("a number stands where a text belongs")
    return bytes(value).decode()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield number and value of each field."""
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        value, position = _read_varint(data, position)
        if key & 7 == _BYTES:
            yield key >> 3, data[position : position + value]
            position += value
        elif key & 7 == _NUMBER:
            yield key >> 3, value
        else:
            raise ValueError(f"field {key >> 3} has a wire type that this message never has")


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
