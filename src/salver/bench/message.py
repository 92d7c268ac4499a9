"""ModelInfer's request with raw tensors, as the protobuf encoding has it.

One message in one direction is a few lines; the protobuf library would be one more import and
would copy every tensor twice.
"""

from collections.abc import Iterable

from salver.core.tensor import Tensor

_MODEL_NAME, _INPUTS, _RAW_INPUT_CONTENTS = 1, 5, 7
_NAME, _DATATYPE, _SHAPE = 1, 2, 3
_LENGTH_DELIMITED = 2
_MORE = 0x80


def inputs_of(tensors: Iterable[Tensor]) -> bytes:
    """Return the fields that hold the inputs; with ``named`` before them they are a request."""
    heads, contents = [], []
    for tensor in tensors:
        shape = b"".join(_varint(size) for size in tensor.shape)
        head = (
            _field(_NAME, tensor.name.encode()),
            _field(_DATATYPE, tensor.datatype.encode()),
            _field(_SHAPE, shape),
        )
        heads.append(_field(_INPUTS, b"".join(head)))
        contents.append(_field(_RAW_INPUT_CONTENTS, bytes(tensor.buffer)))
    return b"".join((*heads, *contents))


def named(endpoint: str, inputs: bytes) -> bytes:
    """Return a whole request with the prefix that gRPC sets before a message."""
    message = _field(_MODEL_NAME, endpoint.encode()) + inputs
    return b"\0" + len(message).to_bytes(4, "big") + message


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= _MORE:
        out.append(number % _MORE | _MORE)
        number //= _MORE
    out.append(number)
    return bytes(out)
