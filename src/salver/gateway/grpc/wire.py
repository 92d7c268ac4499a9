"""The parts of the protobuf encoding that the fast path reads and writes itself.

A request's tensors are its last and largest field. They are cut out of the message as views, so
that they are not copied, and the rest is left to the protobuf library.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from salver.core.errors import BodyTooLarge, InvalidRequest

Buffer = bytes | bytearray | memoryview

_INPUT: Final = 5
_CONTENTS: Final = 5
_OUTPUT: Final = 6
_RAW_INPUT: Final = 7
_LENGTH_DELIMITED: Final = 2
_SKIPS: Final = {1: 8, 5: 4}
_VARINT_BYTES: Final = 10
_MORE: Final = 0x80
_MAX_FIELDS: Final = 4096
_FIELD_BYTES: Final = 2
# By their first byte, fields that are a number or a string and whose tags end there.
_SHORT_TAGS: Final = [
    byte in range(8, _MORE) and byte & 7 in (0, _LENGTH_DELIMITED) for byte in range(256)
]
_Within: TypeAlias = "Mapping[int, _Within]"
# The tags of messages which may hold very many fields: elements, and entries of parameters.
_WITHIN: _Within = {
    _INPUT << 3 | _LENGTH_DELIMITED: {_CONTENTS << 3 | _LENGTH_DELIMITED: {}},
    _OUTPUT << 3 | _LENGTH_DELIMITED: {},
}


def varint(value: int) -> bytes:
    """Return a number of up to 64 bits as a varint."""
    parts = bytearray()
    while value >= _MORE:
        parts.append(value & 0x7F | _MORE)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def bytes_field(number: int, size_bytes: int) -> bytes:
    """Return what goes before the bytes of a length-delimited field."""
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(size_bytes)


def split_raw(
    message: Buffer, max_rest_bytes: int, max_objects: int
) -> tuple[bytes, list[memoryview]]:
    """Return a request without its raw tensors, and those as views.

    Raises ``InvalidRequest`` for bytes that are not a message, and for more fields than any honest
    one has: a field may take two bytes and costs much more to read. Raises ``BodyTooLarge`` where
    more than ``max_rest_bytes`` are left for the protobuf library, or more than ``max_objects``
    fields of inputs, their contents and the outputs asked for.
    """
    view = memoryview(message)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    position, kept, end, left = 0, 0, view.nbytes, _MAX_FIELDS
    while position < end:
        begin = position
        left -= 1
        if not left:
            raise InvalidRequest(f"a message of over {_MAX_FIELDS} fields is not read")
        tag, position = _read(view, position)
        position, size = _past(view, tag, position)
        if tag == (_RAW_INPUT << 3 | _LENGTH_DELIMITED):
            rest.append(view[kept:begin])
            raw.append(view[position - size : position])
            kept = position
    rest.append(view[kept:])
    size = sum([part.nbytes for part in rest])
    if size > max_rest_bytes:
        raise BodyTooLarge(
            f"{size} bytes besides raw tensors are over the limit of {max_rest_bytes}; send "
            "tensors in raw_input_contents"
        )
    joined = b"".join(rest)
    if size > max_objects * _FIELD_BYTES:
        _count_fields(joined, (0, size), _WITHIN, max_objects + _MAX_FIELDS)
    return joined, raw


def _count_fields(message: bytes, span: tuple[int, int], within: _Within, limit: int) -> int:
    """Count the fields within a span, and of the messages in it whose tags are named.

    Raises ``InvalidRequest`` for bytes that are not a message, ``BodyTooLarge`` over the limit.
    """
    (position, end), count = span, 0
    view = memoryview(message)[:end]
    while position < end:
        tag = message[position]
        count += 1
        if count > limit:
            raise BodyTooLarge(
                "the message has too many elements in typed contents, or parameters; send tensors "
                "in raw_input_contents, or fewer rows at a time"
            )
        if tag not in within and _SHORT_TAGS[tag] and position + 1 < end:
            # Most are a byte for the field and one for the length, if there are many.
            size = message[position + 1]
            if size < _MORE:
                position += 2 + (size if tag & 7 else 0)
                continue
        tag, position = _read(view, position)
        position, size = _past(view, tag, position)
        if tag in within:
            inner = (position - size, position)
            count += _count_fields(message, inner, within[tag], limit - count)
    if position != end:
        raise _broken()
    return count


def _past(view: memoryview, tag: int, position: int) -> tuple[int, int]:
    """Return where the field ends, and how long its payload is."""
    kind = tag & 7
    if kind == _LENGTH_DELIMITED:
        size, position = _read(view, position)
    elif kind == 0:
        _, position = _read(view, position)
        size = 0
    elif kind in _SKIPS:
        size = _SKIPS[kind]
    else:
        raise _broken()
    position += size
    if position > view.nbytes or not tag >> 3:
        raise _broken()
    return position, size


def _read(view: memoryview, position: int) -> tuple[int, int]:
    """Return a varint and where it ends."""
    value = shift = 0
    for index in range(position, min(position + _VARINT_BYTES, view.nbytes)):
        byte = view[index]
        value |= (byte & 0x7F) << shift
        if byte < _MORE:
            return value, index + 1
        shift += 7
    raise _broken()


def _broken() -> InvalidRequest:
    return InvalidRequest("the message is not a protobuf message of the kind that was called")
