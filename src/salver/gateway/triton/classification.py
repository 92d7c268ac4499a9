"""Outputs as their highest values: ``value:index`` or ``value:index:label``."""

from collections.abc import Mapping, Sequence

import numpy as np

from salver.core.errors import InvalidTensor
from salver.core.signature import VARIABLE, TensorSpec
from salver.core.tensor import AnyArray, Tensor
from salver.wire.messages import EndpointPlan

_NUMBERS = "iuf"
# Each is a text of its own, and nobody else is answered while they are written.
_MAX_CLASSES = 65_536


def classified(
    outputs: Sequence[Tensor],
    classes: Mapping[str, int],
    endpoint: EndpointPlan | None,
    variant: str,
) -> list[Tensor]:
    """Return the outputs, and instead of those in ``classes`` so many of their highest values.

    Labels are the column names that the variant's signature gives an output. Raises
    ``InvalidTensor`` for an output that is not numbers, and for more than 65,536 classes.
    """
    specs = _specs(endpoint, variant)
    return [
        _highest(tensor, classes[tensor.name], specs.get(tensor.name))
        if tensor.name in classes
        else tensor
        for tensor in outputs
    ]


def _specs(endpoint: EndpointPlan | None, variant: str) -> dict[str, TensorSpec]:
    variants = () if endpoint is None else endpoint.variants
    return {
        spec.name: spec for one in variants if one.id == variant for spec in one.signature.outputs
    }


def _highest(tensor: Tensor, count: int, spec: TensorSpec | None) -> Tensor:
    """Return the highest values along the last axis, row by row, as ``BYTES``."""
    array = tensor.array()
    if array.dtype.kind not in _NUMBERS:
        raise InvalidTensor(
            f"output {tensor.name!r} is {tensor.datatype}; only numbers can be classified"
        )
    # Rows of one value each: their axis is the batch, which has no classes to compare.
    if array.ndim == 0 or (array.ndim == 1 and spec is not None and spec.shape[:1] == (VARIABLE,)):
        array = array[..., np.newaxis]
    size = array.shape[-1]
    rows = array.size // max(1, size)
    if rows * min(count, size) > _MAX_CLASSES:
        raise InvalidTensor(
            f"output {tensor.name!r}: {min(count, size)} classes of {rows} rows are more than "
            f"{_MAX_CLASSES} together; ask for fewer, or for the values"
        )
    order = _descending(array)[..., :count]
    values = np.take_along_axis(array, order, axis=-1)
    labels = [] if spec is None else [column.name for column in spec.columns]
    if len(labels) != size:
        labels = []
    texts = [
        # Formatted they would be doubles, with the digits that those take.
        f"{value!s}:{index}:{labels[index]}" if labels else f"{value!s}:{index}"
        for value, index in zip(values.ravel(), order.ravel().tolist(), strict=True)
    ]
    named = np.array(texts, dtype=object).reshape(order.shape)
    return Tensor.from_array(tensor.name, named)


def _descending(array: AnyArray) -> AnyArray:
    """Return the order from high to low; the first of equal values leads, NaN comes last."""
    keys = array
    if array.dtype.kind == "f":
        keys = np.where(np.isnan(array), -np.inf, array)
    # A stable sort of the mirrored axis, read backwards, leaves equal values in their order.
    mirrored = np.argsort(keys[..., ::-1], axis=-1, kind="stable")
    order: AnyArray = array.shape[-1] - 1 - mirrored[..., ::-1]
    return order
