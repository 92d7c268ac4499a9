"""Keeps the columns that the model takes, in its order."""

from typing import Literal

import msgspec
import numpy as np

from salver.core.datatypes import DTYPES
from salver.core.errors import InvalidSteps
from salver.core.signature import VARIABLE, Column, TensorSpec
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import Bound, Given, Place, Specs, column, columns_of, find

Number = Literal[
    "FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32",
    "UINT64", "BOOL",
]  # fmt: skip


class Select(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tensors and columns to keep, in order; everything else goes.

    With ``into`` they become one tensor of that name, ``[rows, columns]``, of ``datatype`` where
    they are not of one anyhow.
    """

    columns: tuple[str, ...]
    into: str | None = None
    datatype: Number | None = None

    def bind(self, given: Given) -> Bound:
        """Fit the step; see ``Step``."""
        specs = given.specs
        if not self.columns:
            raise InvalidSteps("no columns are named")
        places = {name: find(specs, name) for name in self.columns}
        return self._apart(specs, places) if self.into is None else self._joined(specs, places)

    def _apart(self, specs: Specs, places: dict[str, Place]) -> Bound:
        if self.datatype is not None:
            raise InvalidSteps("'datatype' goes with 'into'; use the step 'cast'")
        after = {
            name: specs[name] if at.position is None else column(name, specs[at.tensor].datatype)
            for name, at in places.items()
        }

        def apply(batch: Batch) -> Batch:
            return {
                name: batch[at.tensor]
                if at.position is None
                else batch[at.tensor][:, at.position : at.position + 1]
                for name, at in places.items()
            }

        return Bound(after, apply)

    def _joined(self, specs: Specs, places: dict[str, Place]) -> Bound:
        into = self.into
        assert into is not None
        datatypes = {specs[at.tensor].datatype for at in places.values()}
        datatype = self.datatype or datatypes.pop()
        if (self.datatype is None and datatypes) or (self.datatype and "BYTES" in datatypes):
            raise InvalidSteps(
                "the columns are of several datatypes, or text; give 'datatype', and encode text "
                "before"
            )
        names = [part for name, at in places.items() for part in _names(specs, name, at)]
        spec = TensorSpec(
            into, datatype, (VARIABLE, len(names)), tuple(Column(name) for name in names)
        )
        dtype = DTYPES.get(datatype, np.dtype(object))

        def apply(batch: Batch) -> Batch:
            parts = []
            for at in places.values():
                array = batch[at.tensor]
                part = array if at.position is None else array[:, at.position]
                parts.append(part.reshape(len(part), -1).astype(dtype, copy=False))
            return {into: np.concatenate(parts, axis=1)}

        return Bound({into: spec}, apply)


def _names(specs: Specs, name: str, at: Place) -> list[str]:
    if at.position is not None:
        return [name]
    spec = specs[name]
    if spec.shape in ((VARIABLE,), (VARIABLE, 1)):
        return [name]
    names = columns_of(spec)
    if not names:
        raise InvalidSteps(
            f"tensor {name!r} has shape {list(spec.shape)}; only tables of a fixed width are joined"
        )
    return names
