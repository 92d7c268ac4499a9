"""Puts values where there are none."""

import msgspec
import numpy as np

from salver.core.errors import InvalidSteps
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import FLOATS, Bound, Given, Place, constant, find, is_text


class Fill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``columns`` maps columns to what stands in: for NaN among floats, for empty text."""

    columns: dict[str, float | str]

    def bind(self, given: Given) -> Bound:
        """Fit the step; see ``Step``."""
        specs = given.specs
        calls = [(find(specs, name), value) for name, value in self.columns.items()]
        for at, value in calls:
            spec = specs[at.tensor]
            if not is_text(spec) and spec.datatype not in FLOATS:
                raise InvalidSteps(
                    f"{at.tensor!r} is {spec.datatype}, where no value can be missing"
                )
            if is_text(spec) is not isinstance(value, str):
                raise InvalidSteps(f"{at.tensor!r} is {spec.datatype}, {value!r} is not")
            if not isinstance(value, str):
                constant(at.tensor, value, spec.datatype)

        def apply(batch: Batch) -> Batch:
            changed: Batch = {}
            for at, value in calls:
                if at.tensor not in changed:
                    changed[at.tensor] = batch[at.tensor].copy()
                _fill(changed[at.tensor], at, value)
            return {**batch, **changed}

        return Bound(dict(specs), apply)


def _fill(array: AnyArray, at: Place, value: float | str) -> None:
    part = array if at.position is None else array[:, at.position]
    if isinstance(value, str):
        part[part == b""] = value.encode()
        part[part == ""] = value.encode()
    else:
        part[np.isnan(part)] = value
