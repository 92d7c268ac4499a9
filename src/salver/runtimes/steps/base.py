"""What a step is, and how steps name what they work on."""

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from salver.core.datatypes import BYTES, DTYPES
from salver.core.errors import InvalidSteps, InvalidTensor, ModelFailed, NonFiniteOutput
from salver.core.sequences import Sequences
from salver.core.signature import VARIABLE, Column, TensorSpec
from salver.core.steps import nearest
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch

Specs = Mapping[str, TensorSpec]
Apply = Callable[[Batch], Batch]

FLOATS = ("FP16", "FP32", "FP64")
INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
NUMBERS = (*FLOATS, *INTEGERS, "BOOL")
MAX_NAMES = 100_000
"""Names that a step may give to values."""
_POINTER_BYTES = 8
_WIDEST = sys.float_info.max


class Given(NamedTuple):
    """What a step finds: tensors, the artifact's files, and how much it may make of a batch."""

    specs: Specs
    folder: Path
    limit_bytes: int


class Bound(NamedTuple):
    """A step that fits what comes before it.

    ``specs`` is what there is after it. ``apply`` takes and returns tensors whose first axis are
    the rows; a row's result depends on that row alone, but for how far text is padded.
    ``sequences`` says how results of unlike lengths are filled up where rows were taken apart; None
    where all are of one length, or where filling up is not what ``apply`` would have done.
    """

    specs: dict[str, TensorSpec]
    apply: Apply
    sequences: Sequences | None = None


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


def constant(name: str, number: float, datatype: str) -> float:
    """Return a number written in the steps as a datatype holds it, floats rounded to the nearest.

    Raises ``InvalidSteps`` for a number that it does not hold.
    """
    dtype = DTYPES[datatype]
    if dtype.kind == "f" and -_WIDEST <= number <= _WIDEST:
        with np.errstate(over="ignore"):
            held: float = np.float64(number).astype(dtype).item()
        if math.isfinite(held):
            return held
    elif dtype.kind != "f":
        limits = (0, 1) if dtype.kind == "b" else _limits(dtype)
        if limits[0] <= number <= limits[1] and number == int(number):
            return int(number)
    raise InvalidSteps(f"{name!r} is {datatype}, which does not hold {number!r}")


def _limits(dtype: np.dtype[np.generic]) -> tuple[int, int]:
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    return int(limits.min), int(limits.max)


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


def row_bytes(specs: Specs) -> int:
    """Return the memory of one row; axes of a variable length count as one."""
    return sum(
        math.prod(max(1, size) for size in spec.shape[1:])
        * (DTYPES[spec.datatype].itemsize if spec.datatype in DTYPES else _POINTER_BYTES)
        for spec in specs.values()
    )


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Raise ``InvalidTensor`` where a step would make more of a batch than it may."""
    if size_bytes > limit_bytes:
        raise InvalidTensor(
            f"a step makes {size_bytes} bytes of this request, over engine.step_bytes "
            f"({limit_bytes}); send fewer rows at once"
        )


def check_numbers(name: str, array: AnyArray) -> None:
    """Raise ``NonFiniteOutput`` for scores that are no numbers, and have no order."""
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise NonFiniteOutput(f"output {name!r} holds NaN, for which there is no name and no rank")


def is_text(spec: TensorSpec) -> bool:
    """Tell whether a tensor holds text."""
    return spec.datatype == BYTES
