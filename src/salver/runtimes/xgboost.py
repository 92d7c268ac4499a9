"""XGBoost models from JSON or UBJ files."""

from pathlib import Path

import numpy as np
import xgboost

from salver.core.signature import VARIABLE, Column, Signature, TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.boosters import INPUT, BoosterRuntime


class XgboostRuntime(BoosterRuntime[xgboost.Booster]):
    """Batch runtime: one FP32 tensor ``input`` in, ``prediction`` out; see ``BoosterRuntime``.

    Two classes are ``binary:logistic``, more are ``multi:softprob``.
    """

    library = "XGBoost"
    suffixes = (".json", ".ubj")
    dtype = np.float32
    errors = xgboost.core.XGBoostError

    def _open(self, path: Path) -> xgboost.Booster:
        booster = xgboost.Booster({"nthread": self._threads})
        booster.load_model(str(path))
        booster.set_param({"nthread": self._threads, "verbosity": 0})
        return booster

    def _predict(self, booster: xgboost.Booster, rows: AnyArray) -> AnyArray:
        return np.asarray(booster.inplace_predict(rows, validate_features=False))

    def _signature_of(self, booster: xgboost.Booster) -> Signature:
        columns = tuple(Column(name) for name in booster.feature_names or [])
        shape = (VARIABLE, booster.num_features())
        return Signature((TensorSpec(INPUT, "FP32", shape, columns),), ())
