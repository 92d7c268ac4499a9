"""A strict, bounded reader of Universal Binary JSON, as XGBoost writes it.

Source: the UBJSON draft 12 specification. Typed arrays become numpy arrays, big-endian.
"""

import struct
from typing import Any

import numpy as np

from salver.core.errors import InvalidArtifact

_MAX_DEPTH = 64
_INTEGERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q"}
_NUMBERS = {**_INTEGERS, b"d": ">f", b"D": ">d"}
_CONSTANTS = {b"Z": None, b"T": True, b"F": False}


def loads(data: bytes) -> Any:
    """Return the document; raises ``InvalidArtifact`` for anything malformed or left over."""
    reader = _Reader(data)
    value = reader.value(reader.take(1), _MAX_DEPTH)
    if reader.position != len(data):
        raise InvalidArtifact(f"{len(data) - reader.position} bytes after the end of the document")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self._data):
            raise InvalidArtifact("the file ends inside a value")
        piece = self._data[self.position : end]
        self.position = end
        return piece

    def value(self, marker: bytes, depth: int) -> Any:
        if depth == 0:
            raise InvalidArtifact(f"the document nests deeper than {_MAX_DEPTH}")
        if marker in _NUMBERS:
            code = _NUMBERS[marker]
            return struct.unpack(code, self.take(struct.calcsize(code)))[0]
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if marker in (b"S", b"H"):
            return self._text()
        if marker == b"C":
            return self.take(1).decode("latin-1")
        if marker == b"[":
            return self._array(depth)
        if marker == b"{":
            return self._object(depth)
        raise InvalidArtifact(f"unknown type marker {marker!r} at byte {self.position - 1}")

    def _length(self) -> int:
        marker = self.take(1)
        code = _INTEGERS.get(marker)
        if code is None:
            raise InvalidArtifact(f"{marker!r} is no length at byte {self.position - 1}")
        length = int(struct.unpack(code, self.take(struct.calcsize(code)))[0])
        if length < 0:
            raise InvalidArtifact("a length is negative")
        return length

    def _text(self) -> str:
        try:
            return self.take(self._length()).decode()
        except UnicodeDecodeError as error:
            raise InvalidArtifact("a text is not UTF-8") from error

    def _peek(self) -> bytes:
        return self._data[self.position : self.position + 1]

    def _array(self, depth: int) -> Any:
        kind = b""
        if self._peek() == b"$":
            self.take(1)
            kind = self.take(1)
        if self._peek() == b"#":
            self.take(1)
            return self._counted(kind, self._length(), depth)
        if kind:
            raise InvalidArtifact("a typed array lacks its length")
        items = []
        while (marker := self.take(1)) != b"]":
            items.append(self.value(marker, depth - 1))
        return items

    def _counted(self, kind: bytes, count: int, depth: int) -> Any:
        if kind in _NUMBERS:
            dtype = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype)
        if count > len(self._data) - self.position:
            raise InvalidArtifact(f"an array of {count} items does not fit into the file")
        return [self.value(kind or self.take(1), depth - 1) for _ in range(count)]

    def _object(self, depth: int) -> dict[str, Any]:
        document: dict[str, Any] = {}
        while self._peek() != b"}":
            key = self._text()
            if key in document:
                raise InvalidArtifact(f"key {key[:80]!r} occurs twice")
            document[key] = self.value(self.take(1), depth - 1)
        self.take(1)
        return document
