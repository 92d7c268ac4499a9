"""What a step is, and how steps name what they work on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from salver.core.datatypes import BYTES
from salver.core.errors import InvalidSteps, ModelFailed
from salver.core.signature import VARIABLE, Column, TensorSpec
from salver.core.steps import nearest
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch

Specs = Mapping[str, TensorSpec]
Apply = Callable[[Batch], Batch]

FLOATS = ("FP16", "FP32", "FP64")
INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
NUMBERS = (*FLOATS, *INTEGERS, "BOOL")


class Given(NamedTuple):
    """What a step finds: tensors, and the folder with the artifact's files."""

    specs: Specs
    folder: Path


class Bound(NamedTuple):
    """A step that fits what comes before it.

    ``specs`` is what there is after it. ``apply`` takes and returns tensors whose first axis are
    the rows; a row's result depends on that row alone, but for how far text is padded.
    """

    specs: dict[str, TensorSpec]
    apply: Apply


class Step(Protocol):
    """One kind of step with its parameters."""

    def bind(self, given: Given) -> Bound:
        """Fit the step to what it is given; raises ``InvalidSteps`` when it does not fit."""
        ...


class Place(NamedTuple):
    """A column: a whole tensor with one value a row, or one position of a tensor's last axis."""

    tensor: str
    position: int | None


def find(specs: Specs, name: str) -> Place:
    """Return where a tensor or column is; raises ``InvalidSteps`` with the nearest name.

    A column goes by its name, or by ``TENSOR[POSITION]`` where columns have no names.
    """
    if name in specs:
        return Place(name, None)
    for spec in specs.values():
        for position, column in enumerate(columns_of(spec)):
            if column == name:
                return Place(spec.name, position)
    known = [*specs, *(column for spec in specs.values() for column in columns_of(spec))]
    raise InvalidSteps(f"there is no tensor or column {nearest(name, known)}")


def columns_of(spec: TensorSpec) -> list[str]:
    """Return the names of a tensor's columns, none where it is no table."""
    if spec.columns:
        return [column.name for column in spec.columns]
    table_axes = 2
    if len(spec.shape) != table_axes or spec.shape[1] == VARIABLE:
        return []
    return [f"{spec.name}[{position}]" for position in range(spec.shape[1])]


def tensor(specs: Specs, name: str, datatypes: tuple[str, ...]) -> TensorSpec:
    """Return the description of a whole tensor of one of these datatypes, or ``InvalidSteps``."""
    spec = specs.get(name)
    if spec is None:
        raise InvalidSteps(f"there is no tensor {nearest(name, list(specs))}")
    if spec.datatype not in datatypes:
        raise InvalidSteps(
            f"tensor {name!r} is {spec.datatype}; this step takes {', '.join(datatypes)}"
        )
    return spec


def one_value(specs: Specs, name: str) -> Place:
    """Return a column with one value a row; raises ``InvalidSteps`` for a wider tensor."""
    place = find(specs, name)
    shape = specs[place.tensor].shape
    if place.position is None and (len(shape) not in (1, 2) or shape[1:] not in ((), (1,))):
        raise InvalidSteps(
            f"tensor {name!r} has shape {list(shape)}, which is not one value a row; name one of "
            "its columns"
        )
    return place


def values_at(batch: Batch, place: Place) -> AnyArray:
    """Return a column's values, one axis."""
    array = batch[place.tensor]
    return array.reshape(len(array)) if place.position is None else array[:, place.position]


def text_of(value: object) -> object:
    """Return what a value written in the steps is inside a tensor of bytes."""
    return value.encode() if isinstance(value, str) else value


def column(name: str, datatype: str) -> TensorSpec:
    """Return the description of one column as a tensor."""
    return TensorSpec(name, datatype, (VARIABLE, 1), (Column(name),))


def without(specs: Specs, *names: str) -> dict[str, TensorSpec]:
    """Return the tensors but for these."""
    return {name: spec for name, spec in specs.items() if name not in names}


def bytes_array(items: list[bytes]) -> AnyArray:
    """Return text as a flat tensor."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def check_width(name: str, array: AnyArray, wanted: int) -> None:
    """Raise ``ModelFailed`` unless the last axis has as many values as there are names."""
    if array.shape[-1:] != (wanted,):
        raise ModelFailed(
            f"output {name!r} has shape {list(array.shape)}, its step names {wanted} values"
        )


def is_text(spec: TensorSpec) -> bool:
    """Tell whether a tensor holds text."""
    return spec.datatype == BYTES
