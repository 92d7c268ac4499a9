"""The parameters that have a meaning of their own, and those that are the model's."""

from collections.abc import Mapping
from typing import Any

from salver.core.errors import InvalidRequest, UnsupportedOperation

_RESERVED = frozenset(
    (
        "binary_data",
        "binary_data_output",
        "binary_data_size",
        "content_type",
        "headers",
        "sequence_end",
        "sequence_id",
        "sequence_start",
    )
)
_RESERVED_PREFIX = "triton_"
_NO_SEQUENCE = (None, 0, "")
_NOTHING: dict[str, Any] = {}


def custom_parameters(parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what is the model's: scalars that the protocol itself gives no meaning.

    Raises ``UnsupportedOperation`` for a request that is part of a sequence.
    """
    if parameters.get("sequence_id") not in _NO_SEQUENCE:
        raise UnsupportedOperation(
            "no model here keeps state between requests; leave 'sequence_id' out"
        )
    kept = {
        key: value
        for key, value in parameters.items()
        if key not in _RESERVED
        and not key.startswith(_RESERVED_PREFIX)
        and isinstance(value, str | int | float | bool)
    }
    return kept or None


def tensor_parameters(which: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an input or a requested output; none if they are no object.

    Raises ``UnsupportedOperation`` for a tensor in shared memory; ``which`` names the tensor.
    """
    parameters = item.get("parameters")
    if not isinstance(parameters, dict):
        return _NOTHING
    if "shared_memory_region" in parameters:
        raise UnsupportedOperation(
            f"{which}: tensors in shared memory are not read or written; send binary data"
        )
    return parameters


def class_count(name: str, parameters: Mapping[str, Any]) -> int:
    """Return how many classes of an output are wanted, 0 for its values as they are.

    Raises ``InvalidRequest`` for anything but a whole number.
    """
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise InvalidRequest(
            f"output {name!r}: 'classification' must be a whole number, not {count!r}"
        )
    return count
