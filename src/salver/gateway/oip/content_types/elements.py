"""Elements of ``BYTES`` tensors as text, base64, or dates, on their way in and out."""

import base64
import re
from collections.abc import Callable
from datetime import datetime

from salver.core.datatypes import BYTES
from salver.core.errors import InvalidRequest, InvalidTensor
from salver.core.tensor import Tensor, decode_bytes, encode_bytes

ARRAY, FRAME, TEXT, BASE64, DATETIME = "np", "pd", "str", "base64", "datetime"
CONTENT_TYPES = (ARRAY, FRAME, TEXT, BASE64, DATETIME)

# Python reads any character between date and time; ISO 8601 does not have them.
_ISO_8601 = re.compile(r"(\d{4}-?\d\d-?\d\d|\d{4}-?W\d\d(-?\d)?)([T ].+)?", re.ASCII)
_MEANINGS = {TEXT: "UTF-8 text", BASE64: "base64", DATETIME: "an ISO 8601 date and time"}

Convert = Callable[[bytes], bytes]


def _text(item: bytes) -> bytes:
    item.decode()
    return item


def _from_base64(item: bytes) -> bytes:
    return base64.b64decode(item, validate=True)


def _moment(item: bytes) -> bytes:
    """Return a date and time in the form that Python writes; raises ``ValueError``."""
    text = item.decode("ascii").upper()
    if _ISO_8601.fullmatch(text) is None:
        raise ValueError(text)
    return datetime.fromisoformat(text).isoformat().encode()


_DECODERS: dict[str, Convert] = {TEXT: _text, BASE64: _from_base64, DATETIME: _moment}
_ENCODERS: dict[str, Convert] = {TEXT: _text, BASE64: base64.b64encode, DATETIME: _moment}


def decode_elements(tensor: Tensor, content_type: str | None) -> Tensor:
    """Return an input as the model takes it; only ``BYTES`` ever change.

    Raises ``InvalidTensor`` that names the first element which is not what was said.
    """
    convert = _DECODERS.get(content_type or "")
    if convert is None or tensor.datatype != BYTES:
        return tensor
    return _each(tensor, convert, f"input {tensor.name!r}", content_type or "")


def encode_elements(tensor: Tensor, content_type: str) -> Tensor | None:
    """Return an output as its caller wants it, None where the content type does not concern it.

    Raises ``InvalidRequest`` that names the first element which cannot be had so.
    """
    if content_type == ARRAY:
        return tensor
    convert = _ENCODERS.get(content_type)
    if convert is None or tensor.datatype != BYTES:
        return None
    try:
        return _each(tensor, convert, f"output {tensor.name!r}", content_type)
    except InvalidTensor as error:
        raise InvalidRequest(f"{error.message}; ask for it without 'content_type'") from error


def _each(tensor: Tensor, convert: Convert, whose: str, content_type: str) -> Tensor:
    converted: list[bytes] = []
    for index, item in enumerate(decode_bytes(tensor.buffer, tensor.element_count)):
        try:
            converted.append(convert(item))
        except ValueError as error:
            raise InvalidTensor(
                f"{whose}: element {index} (from 0) is not {_MEANINGS[content_type]}, which "
                f"content_type {content_type!r} says"
            ) from error
    return Tensor(tensor.name, BYTES, tensor.shape, encode_bytes(converted))
