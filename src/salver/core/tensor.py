"""One named tensor, kept as the bytes that travel.

The bytes are row-major and little-endian; ``BYTES`` elements carry their own 32-bit lengths.
Keeping bytes instead of an array lets a tensor pass from socket to socket without a copy;
``array()`` gives the numpy view to those who compute.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from salver.core.datatypes import BYTES, DTYPES, ITEM_SIZES, datatype_of
from salver.core.errors import InvalidTensor

Buffer = bytes | bytearray | memoryview
AnyArray = npt.NDArray[Any]

_LENGTH = struct.Struct("<I")
_SMALL_BYTES = 4096
_PIECE_ELEMENTS = 4096
_MANY_ELEMENTS = 64


class Tensor(msgspec.Struct, eq=False):
    """A name, a datatype, a shape (every dimension known) and the bytes.

    The constructor checks nothing; ``check()`` does, and whoever takes bytes from outside the
    process must call it before anything else.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    buffer: Buffer

    def __repr__(self) -> str:
        """Describe the tensor without its values, which may be sensitive."""
        return f"Tensor({self.name!r}, {self.datatype}, {self.shape})"

    @property
    def size_bytes(self) -> int:
        """Length of the buffer in bytes."""
        buffer = self.buffer
        return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)

    @property
    def element_count(self) -> int:
        """Product of the dimensions; 1 for a scalar."""
        return math.prod(self.shape)

    def array(self) -> AnyArray:
        """Return the values: a read-only view for fixed-size types, an object array of ``bytes``.

        Raises ``InvalidTensor`` when the bytes do not fit the datatype and shape.
        """
        try:
            if self.datatype == BYTES:
                return decode_bytes(self.buffer, self.element_count).reshape(self.shape)
            array: AnyArray = np.frombuffer(self.buffer, DTYPES[self.datatype])
            return array.reshape(self.shape)
        except (ValueError, KeyError) as error:
            raise InvalidTensor(
                f"tensor {self.name!r}: {self.size_bytes} bytes do not hold "
                f"{self.datatype} of shape {list(self.shape)}"
            ) from error

    def check(self) -> None:
        """Raise ``InvalidTensor`` unless datatype, shape and buffer agree."""
        item_size = ITEM_SIZES.get(self.datatype)
        if any(dimension < 0 for dimension in self.shape):
            raise InvalidTensor(
                f"tensor {self.name!r}: shape {list(self.shape)} has a negative dimension"
            )
        if item_size is None:
            if self.datatype != BYTES:
                raise InvalidTensor(f"tensor {self.name!r}: unknown datatype {self.datatype!r}")
            count = _count_bytes(memoryview(self.buffer), self.element_count)
            if count != self.element_count:
                raise InvalidTensor(
                    f"tensor {self.name!r}: {count} elements for shape {list(self.shape)}"
                )
        elif self.size_bytes != self.element_count * item_size:
            raise InvalidTensor(
                f"tensor {self.name!r}: shape {list(self.shape)} of {self.datatype} takes "
                f"{self.element_count * item_size} bytes, {self.size_bytes} were sent"
            )

    @classmethod
    def from_array(cls, name: str, array: AnyArray) -> "Tensor":
        """Serialise an array; strings become UTF-8 ``BYTES``.

        Raises ``InvalidTensor`` for dtypes or elements the protocol cannot carry.
        """
        datatype = datatype_of(array.dtype)
        if datatype == BYTES:
            return cls(name, datatype, array.shape, encode_bytes(array.ravel().tolist()))
        plain = np.ascontiguousarray(array, DTYPES[datatype])
        if plain.nbytes <= _SMALL_BYTES:
            # For so few bytes a copy costs less than a view.
            return cls(name, datatype, array.shape, plain.tobytes())
        return cls(name, datatype, array.shape, plain.reshape(-1).view(np.uint8).data)


def converted(name: str, array: AnyArray, datatype: str) -> AnyArray:
    """Return numbers as a datatype; raises ``InvalidTensor`` where a value would be another.

    Floats may lose digits, but not become infinite; fractions do not become integers.
    """
    dtype = DTYPES[datatype]
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biuf" or (dtype.kind != "f" and array.dtype.kind == "f"):
        raise InvalidTensor(
            f"input {name!r} is {datatype}; {array.dtype} does not convert to it without loss"
        )
    with np.errstate(over="ignore"):
        result: AnyArray = array.astype(dtype)
    same = np.isfinite(result) == np.isfinite(array) if dtype.kind == "f" else result == array
    if not same.all():
        raise InvalidTensor(f"input {name!r}: a value does not fit into {datatype}")
    return result


def encode_bytes(items: Sequence[Any]) -> bytes:
    """Join elements (``bytes`` or ``str``) as length-prefixed ``BYTES``.

    Needs little more memory than what it returns. Raises ``InvalidTensor`` when an element is
    neither.
    """
    if len(items) <= _PIECE_ELEMENTS:
        return _joined(items)
    starts = range(0, len(items), _PIECE_ELEMENTS)
    return b"".join([_joined(items[start : start + _PIECE_ELEMENTS]) for start in starts])


def _joined(items: Sequence[Any]) -> bytes:
    if len(items) < _MANY_ELEMENTS:
        # For so few the sets and lists below cost more than they save.
        few: list[bytes] = []
        for item in items:
            data = item.encode() if type(item) is str else _element(item)
            few += (_LENGTH.pack(len(data)), data)
        return b"".join(few)
    kinds = set(map(type, items))
    if kinds == {str}:
        items = list(map(str.encode, items))
    elif kinds != {bytes}:
        items = list(map(_element, items))
    parts = [b""] * (2 * len(items))
    parts[::2] = map(_LENGTH.pack, map(len, items))
    parts[1::2] = items
    return b"".join(parts)


def _element(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes):
        return item
    raise InvalidTensor(
        f"an element of a BYTES tensor is {type(item).__name__}; send text or bytes"
    )


def decode_bytes(buffer: Buffer, expected: int) -> AnyArray:
    """Split length-prefixed ``BYTES`` into a flat object array of ``expected`` elements.

    Raises ``InvalidTensor`` when a length points past the end or the count differs.
    """
    view = memoryview(buffer)
    count = _count_bytes(view, expected)
    if count != expected:
        raise InvalidTensor(f"{count} BYTES elements were sent, {expected} were declared")
    # Slices of bytes are made in half the time of those of views.
    data, unpack, prefix, end = bytes(view), _LENGTH.unpack_from, _LENGTH.size, 0
    items: list[bytes] = []
    for _ in range(expected):
        start = end + prefix
        end = start + unpack(data, end)[0]
        items.append(data[start:end])
    array = np.empty(expected, dtype=object)
    array[:] = items
    return array


def _count_bytes(view: memoryview, limit: int) -> int:
    """Return how many elements there are, without making any of them.

    Raises ``InvalidTensor`` for a length that points past the end, and for more than ``limit``.
    """
    size, prefix = view.nbytes, _LENGTH.size
    if limit >= _MANY_ELEMENTS and size >= prefix * limit and _is_uniform(view, limit):
        return limit
    unpack, position, count = _LENGTH.unpack_from, 0, 0
    while position < size:
        if count >= limit:
            raise InvalidTensor(f"more than the declared {limit} BYTES elements were sent")
        if size - position < prefix:
            raise InvalidTensor("a BYTES tensor ends inside a length prefix")
        position += prefix + unpack(view, position)[0]
        count += 1
    if position != size:
        raise InvalidTensor("a BYTES length prefix points past the end of the data")
    return count


def _is_uniform(view: memoryview, count: int) -> bool:
    """Tell whether these are so many elements of one length, which numpy sees at once."""
    step = _LENGTH.size + int(_LENGTH.unpack_from(view)[0])
    if step * count != view.nbytes:
        return False
    prefixes = np.frombuffer(view, np.uint8).reshape(count, step)[:, : _LENGTH.size]
    return bool((prefixes == prefixes[0]).all())
