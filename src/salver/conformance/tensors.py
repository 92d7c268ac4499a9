"""Tensors without numpy: synthetic values, the binary form, shapes and flat data."""

import math
import struct
from dataclasses import dataclass
from typing import Any

from salver.conformance.exchange import BrokenAnswer

BYTES = "BYTES"
FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
DATATYPES = (*FORMATS, BYTES)
KNOWN = (*DATATYPES, "BF16")
"""BF16 has no JSON form, so no check sends it."""
FLOATS = ("FP16", "FP32", "FP64")
_MAX_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor as metadata describe it; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def integer_range(datatype: str) -> tuple[int, int]:
    """Return the least and the largest value of an integer datatype."""
    bits = int(datatype.removeprefix("UINT").removeprefix("INT"))
    if datatype.startswith("U"):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def is_integer(datatype: str) -> bool:
    """Tell whether a datatype holds whole numbers."""
    return "INT" in datatype


def synthetic(spec: Spec, first: int = 0) -> dict[str, Any]:
    """Return an input with small values that differ from each other where they can.

    ``first`` is the number with which they begin, so that two inputs need not be alike.
    Raises ``BrokenAnswer`` for a datatype without a JSON form, or a shape that is too large.
    """
    if spec.datatype not in DATATYPES:
        raise BrokenAnswer(f"input {spec.name!r} is {spec.datatype}, which JSON cannot carry")
    shape = [1 if size == -1 else size for size in spec.shape]
    count = math.prod(shape)
    if count > _MAX_ELEMENTS:
        raise BrokenAnswer(f"input {spec.name!r} has {count} elements, over {_MAX_ELEMENTS}")
    data = [_value(spec.datatype, number) for number in range(first, first + count)]
    return {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": data}


def _value(datatype: str, number: int) -> Any:
    if datatype == BYTES:
        return f"text {number % 10}"
    if datatype == "BOOL":
        return number % 2 == 0
    if datatype in FLOATS:
        return (number % 8) * 0.5
    return number % 8


def flat(data: Any) -> list[Any]:
    """Return nested lists as one list in row-major order, however deep they are."""
    if not isinstance(data, list):
        return [data]
    found, open_lists = [], [iter(data)]
    while open_lists:
        for item in open_lists[-1]:
            if isinstance(item, list):
                open_lists.append(iter(item))
                break
            found.append(item)
        else:
            open_lists.pop()
    return found


def nested(data: list[Any], shape: list[int]) -> list[Any]:
    """Return a flat list in the form of its shape."""
    if len(shape) <= 1:
        return data
    step = math.prod(shape[1:])
    return [nested(data[at * step : (at + 1) * step], shape[1:]) for at in range(shape[0])]


def pack(item: dict[str, Any]) -> bytes:
    """Return an input's data in the binary form."""
    values = flat(item["data"])
    if item["datatype"] == BYTES:
        texts = [str(value).encode() for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return struct.pack(f"<{len(values)}{FORMATS[item['datatype']]}", *values)


def unpack(datatype: str, raw: bytes) -> list[Any]:
    """Return the elements of binary data; raises ``BrokenAnswer`` if they do not add up."""
    if datatype == BYTES:
        return _unpack_bytes(raw)
    if datatype not in FORMATS:
        raise BrokenAnswer(f"binary data of the unknown datatype {datatype!r}")
    size = struct.calcsize(f"<{FORMATS[datatype]}")
    if len(raw) % size:
        raise BrokenAnswer(f"{len(raw)} bytes are no whole number of {datatype} elements")
    return list(struct.unpack(f"<{len(raw) // size}{FORMATS[datatype]}", raw))


def _unpack_bytes(raw: bytes) -> list[str]:
    found, at = [], 0
    while at < len(raw):
        end = at + 4
        length = int.from_bytes(raw[at:end], "little")
        if end + length > len(raw):
            raise BrokenAnswer("a BYTES element says it is longer than what was sent")
        found.append(raw[end : end + length].decode("utf-8", "replace"))
        at = end + length
    return found


def unfit(datatype: str, value: Any) -> str:
    """Say why a JSON value cannot be an element of a datatype; empty if it can."""
    if datatype == "BOOL":
        fits = isinstance(value, bool)
    elif datatype == BYTES:
        fits = isinstance(value, str)
    elif datatype in FLOATS:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif is_integer(datatype):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        low, high = integer_range(datatype)
        fits = fits and low <= value <= high and value == int(value)
    else:
        fits = True
    return "" if fits else f"{value!r:.60} is no {datatype}"


def same(left: list[Any], right: list[Any]) -> bool:
    """Tell whether two lists of elements are equal but for the rounding of one encoding."""
    return len(left) == len(right) and all(
        _close(one, other) for one, other in zip(left, right, strict=True)
    )


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        try:
            return math.isclose(float(one), float(other), rel_tol=1e-3, abs_tol=1e-6)
        except (TypeError, ValueError, OverflowError):
            return False
    return bool(one == other)
