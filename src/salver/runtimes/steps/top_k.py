"""Keeps the greatest scores."""

import msgspec
import numpy as np

from salver.core.datatypes import BYTES
from salver.core.errors import InvalidSteps, ModelFailed
from salver.core.signature import TensorSpec
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import (
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


class TopK(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``k`` greatest of the last axis of ``tensor``, greatest first, the first of equals first.

    ``into`` has their positions (INT64) or, with ``names``, their names; ``scores`` has them.
    """

    tensor: str
    k: int
    names: tuple[str, ...] = ()
    into: str = "top"
    scores: str = "top_scores"

    def bind(self, given: Given) -> Bound:
        """Fit the step; see ``Step``."""
        specs = given.specs
        spec = tensor(specs, self.tensor, NUMBERS)
        width = spec.shape[-1] if len(spec.shape) > 1 else 1
        if not 1 <= self.k <= (width if width > 0 else self.k):
            raise InvalidSteps(f"{self.tensor!r} has {width} values a row, 'k' is {self.k}")
        if len(self.names) > MAX_NAMES:
            raise InvalidSteps(f"more than {MAX_NAMES} names")
        if len(spec.shape) <= 1:
            raise InvalidSteps(f"{self.tensor!r} has shape {list(spec.shape)}, one value a row")
        names = bytes_array([name.encode() for name in self.names])
        longest = max(map(len, names.tolist()), default=0)
        shape = (*spec.shape[:-1], self.k)

        def apply(batch: Batch) -> Batch:
            array = batch[self.tensor]
            if self.names:
                check_width(self.tensor, array, len(self.names))
            elif array.shape[-1] < self.k:
                raise ModelFailed(f"output {self.tensor!r} has only {array.shape[-1]} values a row")
            check_numbers(self.tensor, array)
            order = np.argsort(-array.astype(np.float64), axis=-1, kind="stable")[..., : self.k]
            check_size(order.size * longest, given.limit_bytes)
            top = names[order] if self.names else order.astype(np.int64)
            return {**batch, self.into: top, self.scores: np.take_along_axis(array, order, axis=-1)}

        made = {
            self.into: TensorSpec(self.into, BYTES if self.names else "INT64", shape),
            self.scores: TensorSpec(self.scores, spec.datatype, shape),
        }
        return Bound({**specs, **made}, apply)
