"""What every JSON body has in common, whatever its dialect: one object, and parameters."""

import math
import re
from collections.abc import Iterable
from typing import Any

import orjson

from salver.core.datatypes import BYTES
from salver.core.errors import BodyTooLarge, InvalidJson, InvalidRequest, InvalidTensor
from salver.core.settings import HttpSettings
from salver.core.tensor import Buffer

# A text as a whole, even one without end, so that nothing in it counts; or what begins the others.
_OBJECT = re.compile(rb'"[^"\\]*+(?:(?:\\.)++[^"\\]*+)*+\\?"?|[\[{]', re.DOTALL)
# The shortest is ``[]``, and a comma follows it.
_OBJECT_BYTES = 3


def check_json(body: Buffer, settings: HttpSettings) -> None:
    """Raise ``BodyTooLarge`` when JSON is over its limit in bytes, or in what it is made of.

    Texts, lists and objects of a few bytes become many times as many, so they are counted before
    anything is made of them.
    """
    check_json_size(len(body), settings)
    limit = settings.max_objects
    if len(body) < _OBJECT_BYTES * limit:
        return
    text = bytes(body)
    if text.count(b'"') // 2 + text.count(b"[") + text.count(b"{") <= limit:
        return
    for number, _ in enumerate(_OBJECT.finditer(text)):
        if number >= limit:
            raise BodyTooLarge(
                f"the JSON has more than {limit} texts, lists and objects; send fewer rows at a "
                "time, or tensors as binary data"
            )


def check_element_count(heads: Iterable[tuple[str, str, tuple[int, ...]]], limit: int) -> None:
    """Raise ``BodyTooLarge`` when the ``BYTES`` tensors of a request have too many elements.

    ``heads`` are the names, datatypes and shapes of all its tensors.
    """
    count = 0
    for _, datatype, shape in heads:
        if datatype == BYTES:
            count += math.prod(shape)
    if count > limit:
        raise BodyTooLarge(
            f"{count} elements of BYTES tensors are over the limit of {limit}; send fewer at a time"
        )


def check_dimensions(name: str, count: int, limit: int) -> None:
    """Raise ``InvalidTensor`` when the shape of an input is longer than allowed."""
    if count > limit:
        raise InvalidTensor(f"input {name!r} has more than {limit} dimensions")


def check_json_size(size_bytes: int, settings: HttpSettings) -> None:
    """Raise ``BodyTooLarge`` when JSON is over its limit."""
    if size_bytes > settings.max_json_bytes:
        raise BodyTooLarge(
            f"{size_bytes} bytes of JSON are over the limit of {settings.max_json_bytes}; send "
            "tensors as binary data"
        )


def parse_object(body: Buffer) -> dict[str, Any]:
    """Return the object that a body is; raises ``InvalidJson`` or ``InvalidRequest``."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be a JSON object with 'inputs'")
    return document


def parameters_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """Return a body's parameters as they were sent; raises ``InvalidRequest``."""
    parameters = document.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest("'parameters' must be an object")
    return parameters
