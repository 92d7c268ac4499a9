"""LightGBM models from text files."""

from pathlib import Path

import lightgbm
import numpy as np

from salver.core.errors import LoadFailed, ModelFailed
from salver.core.garbage import give_back
from salver.core.hosting import CPU
from salver.core.signature import VARIABLE, Column, Signature, TensorSpec
from salver.runtimes.base import Batch, RuntimeOptions
from salver.runtimes.checks import check_batch, only_file, pick

INPUT = "input"
OUTPUT = "prediction"
_MAX_CAUSE = 500


class LightgbmRuntime:
    """Batch runtime: one FP64 tensor ``input`` in, ``prediction`` out.

    The prediction is the model's transformed output: a probability for binary models, one column
    for each class for multiclass ones, the value for regressions.
    """

    provider = CPU

    def __init__(self) -> None:
        self._booster: lightgbm.Booster | None = None
        self._signature: Signature | None = None
        self._threads = 1

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load the one ``.txt`` or ``.lgb`` file of the folder."""
        path = only_file(folder, (".txt", ".lgb"))
        self._threads = options.threads
        try:
            booster = lightgbm.Booster(model_str=path.read_text())
        except (lightgbm.basic.LightGBMError, ValueError, TypeError) as error:
            raise LoadFailed(f"LightGBM refused {path.name}: {error}"[:_MAX_CAUSE]) from error
        self._booster = booster
        self._signature = signature or _signature_of(booster)

    def signature(self) -> Signature | None:
        """Return the features as one tabular input."""
        return self._signature

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer a batch; missing values are NaN."""
        if self._booster is None or self._signature is None:
            raise ModelFailed("the model is not loaded")
        check_batch(batch, self._signature.inputs)
        rows = batch[INPUT]
        width = self._signature.outputs[0].shape[1:] if self._signature.outputs else ()
        if rows.shape[0] == 0:
            return pick({OUTPUT: np.empty((0, *width), np.float64)}, outputs)
        try:
            prediction = self._booster.predict(rows, num_threads=self._threads)
        except (lightgbm.basic.LightGBMError, ValueError) as error:
            raise ModelFailed(f"LightGBM: {error}"[:_MAX_CAUSE]) from error
        return pick({OUTPUT: np.asarray(prediction, np.float64)}, outputs)

    def unload(self) -> None:
        """Release the booster."""
        self._booster = None
        give_back()


def _signature_of(booster: lightgbm.Booster) -> Signature:
    columns = tuple(Column(name) for name in booster.feature_name())
    shape = (VARIABLE, booster.num_feature())
    return Signature((TensorSpec(INPUT, "FP64", shape, columns),), ())
