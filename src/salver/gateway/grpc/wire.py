"""The parts of the protobuf encoding that the fast path reads and writes itself.

A request's tensors are its last and largest field. They are cut out of the message as views, so
that they are not copied, and the rest is left to the protobuf library.
"""

from salver.core.errors import BodyTooLarge, InvalidRequest

Buffer = bytes | bytearray | memoryview

_RAW_INPUT = 7
_LENGTH_DELIMITED = 2
_SKIPS = {1: 8, 5: 4}
_VARINT_BYTES = 10
_MORE = 0x80
_MAX_FIELDS = 4096


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


def split_raw(message: Buffer, max_rest_bytes: int) -> tuple[bytes, list[memoryview]]:
    """Return a request without its raw tensors, and those as views.

    Raises ``InvalidRequest`` for bytes that are not a message, and for more fields than any honest
    one has: a field may take two bytes and costs much more to read. Raises ``BodyTooLarge`` where
    more than ``max_rest_bytes`` are left for the protobuf library.
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
    return b"".join(rest), raw


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
