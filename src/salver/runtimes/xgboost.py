"""XGBoost models from JSON or UBJ files."""

from pathlib import Path

import numpy as np
import xgboost

from salver.core.errors import LoadFailed, ModelFailed
from salver.core.garbage import give_back
from salver.core.hosting import CPU
from salver.core.signature import VARIABLE, Column, Signature, TensorSpec
from salver.runtimes.base import Batch, RuntimeOptions
from salver.runtimes.checks import check_batch, only_file, pick

INPUT = "input"
OUTPUT = "prediction"
_MAX_CAUSE = 500


class XgboostRuntime:
    """Batch runtime: one FP32 tensor ``input`` in, ``prediction`` out.

    The prediction is the model's transformed output: a probability for ``binary:logistic``, one
    column for each class for ``multi:softprob``, the value for regressions.
    """

    provider = CPU

    def __init__(self) -> None:
        self._booster: xgboost.Booster | None = None
        self._signature: Signature | None = None

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load the one ``.json`` or ``.ubj`` file of the folder."""
        path = only_file(folder, (".json", ".ubj"))
        try:
            booster = xgboost.Booster({"nthread": options.threads})
            booster.load_model(str(path))
            booster.set_param({"nthread": options.threads, "verbosity": 0})
        except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
            raise LoadFailed(f"XGBoost refused {path.name}: {error}"[:_MAX_CAUSE]) from error
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
            return pick({OUTPUT: np.empty((0, *width), np.float32)}, outputs)
        try:
            prediction = self._booster.inplace_predict(rows, validate_features=False)
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise ModelFailed(f"XGBoost: {error}"[:_MAX_CAUSE]) from error
        return pick({OUTPUT: np.asarray(prediction, np.float32)}, outputs)

    def unload(self) -> None:
        """Release the booster."""
        self._booster = None
        give_back()


def _signature_of(booster: xgboost.Booster) -> Signature:
    count = booster.num_features()
    names = booster.feature_names or []
    columns = tuple(Column(name) for name in names)
    return Signature((TensorSpec(INPUT, "FP32", (VARIABLE, count), columns),), ())
