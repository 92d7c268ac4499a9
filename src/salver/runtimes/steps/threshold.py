"""Decides by a limit."""

import msgspec

from salver.core.errors import InvalidSteps, ModelFailed
from salver.core.signature import TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import FLOATS, NUMBERS, Bound, Given, constant, tensor


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``into`` tells where ``tensor`` is ``at`` or more; of ``column`` only, if that is given."""

    tensor: str
    at: float
    into: str
    column: int | None = None

    def bind(self, given: Given) -> Bound:
        """Fit the step; see ``Step``."""
        specs = given.specs
        spec = tensor(specs, self.tensor, NUMBERS)
        at = constant("at", self.at, spec.datatype if spec.datatype in FLOATS else "FP64")
        shape = spec.shape if self.column is None else spec.shape[:-1]
        if self.column is not None and len(spec.shape) <= 1:
            raise InvalidSteps(f"{self.tensor!r} has shape {list(spec.shape)}, and no columns")

        def apply(batch: Batch) -> Batch:
            return {**batch, self.into: self._part(batch[self.tensor]) >= at}

        return Bound({**specs, self.into: TensorSpec(self.into, "BOOL", shape)}, apply)

    def _part(self, array: AnyArray) -> AnyArray:
        if self.column is None:
            return array
        if not -array.shape[-1] <= self.column < array.shape[-1]:
            raise ModelFailed(
                f"output {self.tensor!r} has shape {list(array.shape)}, and no column {self.column}"
            )
        return array[..., self.column]
