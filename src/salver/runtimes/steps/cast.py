"""Makes tensors another datatype."""

from typing import Literal

import msgspec
import numpy as np

from salver.core.datatypes import BYTES, DTYPES
from salver.core.errors import InvalidSteps, InvalidTensor
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import Bound, Given, find

Datatype = Literal[
    "BYTES", "FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16",
    "UINT32", "UINT64", "BOOL",
]  # fmt: skip
_SHOWN = 40


class Cast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``to`` maps tensors to datatypes. Text becomes the number that it spells.

    Fractions are cut off; a value that the datatype does not reach is the caller's error.
    """

    to: dict[str, Datatype]

    def bind(self, given: Given) -> Bound:
        """Fit the step; see ``Step``."""
        specs = given.specs
        after = dict(specs)
        for name, datatype in self.to.items():
            if find(specs, name).position is not None:
                raise InvalidSteps(
                    f"{name!r} is a column of a tensor, which has one datatype; cast the tensor, "
                    "or select the column first"
                )
            after[name] = msgspec.structs.replace(specs[name], datatype=datatype)
        calls = {
            name: (specs[name].datatype == BYTES, datatype) for name, datatype in self.to.items()
        }

        def apply(batch: Batch) -> Batch:
            changed = {
                name: _cast(name, batch[name], datatype, is_text=is_text)
                for name, (is_text, datatype) in calls.items()
            }
            return {**batch, **changed}

        return Bound(after, apply)


def _cast(name: str, array: AnyArray, datatype: str, *, is_text: bool) -> AnyArray:
    if datatype == BYTES:
        if is_text:
            return array
        text = np.empty(array.size, dtype=object)
        text[:] = [str(item).encode() for item in array.ravel().tolist()]
        return text.reshape(array.shape)
    numbers = _spelled(name, array, datatype) if is_text else array
    dtype = DTYPES[datatype]
    if dtype.kind in "iu":
        _check_reach(name, numbers, dtype)
    with np.errstate(over="ignore"):
        result: AnyArray = numbers.astype(dtype)
    if dtype.kind == "f" and numbers.dtype.kind == "f":
        lost = np.isfinite(numbers) & ~np.isfinite(result)
        if lost.any():
            raise InvalidTensor(f"{name!r}: {numbers[lost].flat[0]} is beyond {datatype}")
    return result


def _check_reach(name: str, numbers: AnyArray, dtype: np.dtype[np.generic]) -> None:
    if numbers.dtype.kind == "b":
        return
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    if numbers.dtype.kind == "f":
        # Where a limit's neighbour is no such float it is rounded: down to the limit itself, and
        # up to a whole power of two.
        wide = numbers.astype(np.float64)
        fits = (wide > float(limits.min) - 1) & (wide < float(limits.max) + 1)
        fits |= wide == float(limits.min)
    else:
        fits = (numbers >= max(limits.min, np.iinfo(numbers.dtype).min)) & (
            numbers <= min(limits.max, np.iinfo(numbers.dtype).max)
        )
    if not fits.all():
        raise InvalidTensor(f"{name!r}: {numbers[~fits].flat[0]} is beyond {dtype.name.upper()}")


def _spelled(name: str, array: AnyArray, datatype: str) -> AnyArray:
    kind = float if datatype.startswith("FP") else int
    numbers = []
    for item in array.ravel().tolist():
        text = item.decode(errors="replace") if isinstance(item, bytes) else str(item)
        try:
            # An empty cell is a missing number; underscores are Python's own way to write one.
            missing = kind is float and not text.strip()
            numbers.append(float("nan") if missing else kind(text.replace("_", "?")))
        except ValueError as error:
            raise InvalidTensor(f"{name!r}: {text[:_SHOWN]!r} spells no {datatype}") from error
    try:
        wide: AnyArray = np.array(numbers, np.float64 if kind is float else None)
    except OverflowError as error:
        raise InvalidTensor(f"{name!r}: a number is beyond {datatype}") from error
    if wide.dtype == object:
        raise InvalidTensor(f"{name!r}: a number is beyond {datatype}")
    return wide.reshape(array.shape)
