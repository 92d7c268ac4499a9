"""Names what the model decided for."""

import msgspec
import numpy as np

from salver.core.datatypes import BYTES
from salver.core.errors import InvalidSteps, ModelFailed
from salver.core.signature import TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import (
    FLOATS,
    MAX_NAMES,
    NUMBERS,
    Bound,
    Given,
    bytes_array,
    check_numbers,
    check_size,
    check_width,
    tensor,
)


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names for the values of ``tensor``: of scores the greatest, of whole numbers each.

    Scores are floats ``[rows, …, names]``; whole numbers and truth values count the names from 0.
    """

    tensor: str
    names: tuple[str, ...]
    into: str = "label"

    def bind(self, given: Given) -> Bound:
        """Fit the step; see ``Step``."""
        specs = given.specs
        if not 0 < len(self.names) <= MAX_NAMES:
            raise InvalidSteps(f"1 to {MAX_NAMES} names, not {len(self.names)}")
        spec = tensor(specs, self.tensor, NUMBERS)
        scores = spec.datatype in FLOATS
        if scores and len(spec.shape) <= 1:
            raise InvalidSteps(
                f"{self.tensor!r} is {spec.datatype} of shape {list(spec.shape)}; scores have an "
                "axis for the names"
            )
        shape = spec.shape[:-1] if scores else spec.shape
        names = bytes_array([name.encode() for name in self.names])
        longest = max(map(len, names.tolist()))

        def apply(batch: Batch) -> Batch:
            array = batch[self.tensor]
            positions = self._positions(array, scores=scores)
            check_size(positions.size * longest, given.limit_bytes)
            return {**batch, self.into: names[positions]}

        return Bound({**specs, self.into: TensorSpec(self.into, BYTES, shape)}, apply)

    def _positions(self, array: AnyArray, *, scores: bool) -> AnyArray:
        if scores:
            check_width(self.tensor, array, len(self.names))
            check_numbers(self.tensor, array)
            best: AnyArray = np.argmax(array, axis=-1)
            return best
        positions = array.astype(np.int64)
        if ((positions < 0) | (positions >= len(self.names))).any():
            raise ModelFailed(
                f"output {self.tensor!r} holds a number without a name; there are names for 0 to "
                f"{len(self.names) - 1}"
            )
        return positions
