"""LightGBM models from text files."""

from pathlib import Path

import lightgbm
import numpy as np

from salver.core.signature import VARIABLE, Column, Signature, TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.boosters import INPUT, BoosterRuntime


class LightgbmRuntime(BoosterRuntime[lightgbm.Booster]):
    """Batch runtime: one FP64 tensor ``input`` in, ``prediction`` out; see ``BoosterRuntime``."""

    library = "LightGBM"
    suffixes = (".txt", ".lgb")
    dtype = np.float64
    errors = lightgbm.basic.LightGBMError

    def _open(self, path: Path) -> lightgbm.Booster:
        return lightgbm.Booster(model_str=path.read_text())

    def _predict(self, booster: lightgbm.Booster, rows: AnyArray) -> AnyArray:
        return np.asarray(booster.predict(rows, num_threads=self._threads))

    def _signature_of(self, booster: lightgbm.Booster) -> Signature:
        columns = tuple(Column(name) for name in booster.feature_name())
        shape = (VARIABLE, booster.num_feature())
        return Signature((TensorSpec(INPUT, "FP64", shape, columns),), ())
