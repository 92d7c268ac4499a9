"""Which content types a request names, and what they change about its tensors."""

import math
from typing import Any

import msgspec

from salver.core.errors import InvalidRequest
from salver.core.request import LayOut, Parameters
from salver.core.tensor import Tensor
from salver.gateway.oip.content_types.elements import (
    ARRAY,
    CONTENT_TYPES,
    FRAME,
    TEXT,
    decode_elements,
    encode_elements,
)
from salver.gateway.oip.content_types.frame import lay_columns, lay_only

_FLOATS = frozenset(("FP16", "FP32", "FP64"))
_LAYOUTS: dict[str, LayOut] = {FRAME: lay_columns, ARRAY: lay_only, TEXT: lay_only}
_NULL_IS_NAN = frozenset((ARRAY, FRAME))
_MAX_SHOWN = 40


class ContentTypes(msgspec.Struct, frozen=True, eq=False):
    """Content types of a request: of the whole, of its inputs by position, of outputs by name."""

    whole: str | None
    inputs: tuple[str | None, ...]
    outputs: dict[str, str]

    @property
    def lay_out(self) -> LayOut | None:
        """Return how the inputs become the model's, None where they are sent as they are."""
        return _LAYOUTS.get(self.whole or "")

    def prepared(self, inputs: list[Any]) -> list[Any]:
        """Return a body's inputs as they are read: text alone is a list of one, null is NaN."""
        return [
            _prepared(item, own or self.whole)
            for item, own in zip(inputs, self.inputs, strict=True)
        ]

    def decoded(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the inputs as the model takes them; raises ``InvalidTensor``."""
        return [
            decode_elements(tensor, own or self.whole)
            for tensor, own in zip(tensors, self.inputs, strict=True)
        ]

    def encoded(self, outputs: list[Tensor]) -> tuple[list[Tensor], dict[str, Parameters]]:
        """Return the outputs as the caller wants them, and the parameters that say so.

        Raises ``InvalidRequest`` for an output that cannot be had so.
        """
        tensors: list[Tensor] = []
        notes: dict[str, Parameters] = {}
        for tensor in outputs:
            content_type = self.outputs.get(tensor.name)
            done = None if content_type is None else encode_elements(tensor, content_type)
            if done is not None:
                notes[tensor.name] = {"content_type": content_type}
            tensors.append(done or tensor)
        return tensors, notes


def read_content_types(document: dict[str, Any]) -> ContentTypes | None:
    """Return what a body with a list of inputs says, None when it names no content type.

    Raises ``InvalidRequest`` for a content type that is not known.
    """
    whole = _named(document, "the request")
    inputs = tuple([_named(item, "an input") for item in document["inputs"]])
    outputs: dict[str, str] = {}
    entries = document.get("outputs")
    for item in entries if isinstance(entries, list) else ():
        content_type = _named(item, "an output")
        name = item.get("name") if content_type else None
        if content_type is not None and isinstance(name, str):
            outputs[name] = content_type
    if whole is None and not outputs and not any(inputs):
        return None
    return ContentTypes(whole, inputs, outputs)


def _named(item: Any, whose: str) -> str | None:
    parameters = item.get("parameters") if isinstance(item, dict) else None
    content_type = parameters.get("content_type") if isinstance(parameters, dict) else None
    if content_type is None or content_type == "":
        return None
    if content_type not in CONTENT_TYPES:
        raise InvalidRequest(
            f"content_type {str(content_type)[:_MAX_SHOWN]!r} of {whose} is not one of "
            f"{', '.join(CONTENT_TYPES)}"
        )
    name: str = content_type
    return name


def _prepared(item: Any, content_type: str | None) -> Any:
    if not isinstance(item, dict) or content_type is None:
        return item
    data = item.get("data")
    if isinstance(data, str):
        return item | {"data": [data]}
    datatype = item.get("datatype")
    if content_type in _NULL_IS_NAN and isinstance(datatype, str) and datatype in _FLOATS:
        return item | {"data": _without_nulls(data)}
    return item


def _without_nulls(data: Any) -> Any:
    """Return numbers, which may be nested once, with NaN for null as MLServer writes it."""
    unconverted = getattr(data, "as_buffer", None)
    if unconverted is not None:
        try:
            unconverted(of_type="d")
        except TypeError:
            return _without_nulls(data.as_list())
        return data
    if not isinstance(data, list):
        return data
    return [
        [_number(cell) for cell in item] if isinstance(item, list) else _number(item)
        for item in data
    ]


def _number(cell: Any) -> Any:
    return math.nan if cell is None else cell
