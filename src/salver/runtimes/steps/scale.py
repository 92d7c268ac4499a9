"""Shifts and scales numbers."""

import msgspec
import numpy as np

from salver.core.datatypes import DTYPES
from salver.core.errors import InvalidSteps
from salver.core.signature import TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import FLOATS, NUMBERS, Bound, Given, Place, constant, find

_WIDE_BYTES = 8


class Scaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``(value - subtract) / divide``; lists have one number for each place of the last axis."""

    subtract: float | tuple[float, ...] = 0.0
    divide: float | tuple[float, ...] = 1.0


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``columns`` maps columns or whole tensors to their scaling; integers become floats."""

    columns: dict[str, Scaling]

    def bind(self, given: Given) -> Bound:
        """Fit the step; see ``Step``."""
        specs = given.specs
        places = {name: find(specs, name) for name in self.columns}
        after = dict(specs)
        for name, at in places.items():
            after[at.tensor] = _scaled(specs[at.tensor])
            _check(name, self.columns[name], after[at.tensor], at)
        dtypes = {at.tensor: DTYPES[after[at.tensor].datatype] for at in places.values()}
        calls = [
            (
                at,
                np.asarray(self.columns[name].subtract, dtypes[at.tensor]),
                np.asarray(self.columns[name].divide, dtypes[at.tensor]),
            )
            for name, at in places.items()
        ]

        def apply(batch: Batch) -> Batch:
            changed: Batch = {name: batch[name].astype(dtype) for name, dtype in dtypes.items()}
            for at, subtract, divide in calls:
                part: AnyArray = changed[at.tensor]
                if at.position is not None:
                    part = part[:, at.position]
                part -= subtract
                part /= divide
            return {**batch, **changed}

        return Bound(after, apply)


def _scaled(spec: TensorSpec) -> TensorSpec:
    if spec.datatype not in NUMBERS:
        raise InvalidSteps(f"{spec.name!r} is {spec.datatype}; only numbers are scaled")
    if spec.datatype in FLOATS:
        return spec
    wide = DTYPES[spec.datatype].itemsize == _WIDE_BYTES
    return msgspec.structs.replace(spec, datatype="FP64" if wide else "FP32")


def _check(name: str, scaling: Scaling, spec: TensorSpec, at: Place) -> None:
    for numbers in (scaling.subtract, scaling.divide):
        several = numbers if isinstance(numbers, tuple) else (numbers,)
        held = [constant(name, number, spec.datatype) for number in several]
        if numbers is scaling.divide and 0 in held:
            raise InvalidSteps(f"{name!r}: 'divide' is 0, or is 0 as {spec.datatype}")
        if isinstance(numbers, tuple) and (
            at.position is not None or spec.shape[-1:] != (len(numbers),)
        ):
            raise InvalidSteps(
                f"{name!r}: {len(numbers)} numbers are given for a last axis of "
                f"{1 if at.position is not None else spec.shape[-1] if spec.shape else 0}"
            )
