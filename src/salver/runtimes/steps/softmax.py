"""Turns scores into probabilities."""

import msgspec
import numpy as np

from salver.runtimes.base import Batch
from salver.runtimes.steps.base import FLOATS, Bound, Given, tensor


class Softmax(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Softmax along the last axis of ``tensor``; ``into`` names the result, if not the same."""

    tensor: str
    into: str | None = None

    def bind(self, given: Given) -> Bound:
        """Fit the step; see ``Step``."""
        specs = given.specs
        spec = tensor(specs, self.tensor, FLOATS)
        name = self.into or self.tensor

        def apply(batch: Batch) -> Batch:
            scores = batch[self.tensor]
            powers = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
            return {**batch, name: powers / powers.sum(axis=-1, keepdims=True)}

        return Bound({**specs, name: msgspec.structs.replace(spec, name=name)}, apply)
