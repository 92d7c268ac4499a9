"""scikit-learn models from skops files, or from pickles that somebody trusted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import skops.io

from salver.core.errors import InvalidArtifact, LoadFailed, ModelFailed, PickleRefused
from salver.core.garbage import give_back
from salver.core.hosting import CPU
from salver.core.signature import Signature
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch, RuntimeOptions
from salver.runtimes.checks import as_text, check_batch, only_file, pick
from salver.runtimes.trees import check_trees

LABEL = "label"
PROBABILITIES = "probabilities"
PREDICTION = "prediction"
OUTPUT = "output"
PICKLES = (".pkl", ".pickle", ".joblib")
# Types of these libraries only compute; anything else could run code when it is rebuilt.
_TRUSTED_MODULES = ("sklearn.", "numpy.", "scipy.")
_MAX_CAUSE = 500


class SklearnRuntime:
    """Batch runtime for estimators, pipelines and transformers.

    Classifiers give ``label`` and, where they can, ``probabilities``; regressors ``prediction``;
    clusterings and outlier detectors ``label``; transformers ``output``. A model with one input
    gets an array, one with several a frame with a column for each (which takes pandas).
    """

    provider = CPU

    def __init__(self) -> None:
        self._model: Any = None
        self._signature: Signature | None = None
        self._calls: dict[str, Callable[[Any], AnyArray]] = {}

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load the one model file of the folder."""
        pickles = [path for path in folder.iterdir() if path.name.lower().endswith(PICKLES)]
        path = pickles[0] if len(pickles) == 1 else only_file(folder, (".skops",))
        self._model = _load_pickle(path, options) if pickles else _load_skops(path)
        self._calls = _calls(self._model)
        self._signature = signature

    def signature(self) -> Signature | None:
        """Return the signature it was loaded with; the file alone does not tell."""
        return self._signature

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer a batch."""
        if self._model is None:
            raise ModelFailed("the model is not loaded")
        if self._signature is not None:
            check_batch(batch, self._signature.inputs)
        wanted = pick(dict.fromkeys(self._calls, _NOTHING), outputs)
        rows = self._rows(batch)
        try:
            # Copies: what came from a pickle may write its next answer into the same array.
            return {name: np.array(self._calls[name](rows)) for name in wanted}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ModelFailed(f"scikit-learn: {error}"[:_MAX_CAUSE]) from error

    def unload(self) -> None:
        """Release the model."""
        self._model = None
        self._calls = {}
        give_back()

    def _rows(self, batch: Batch) -> Any:
        if len(batch) == 1:
            (array,) = batch.values()
            return array
        return _frame(batch)


_NOTHING: AnyArray = np.empty(0)


def _load_skops(path: Path) -> Any:
    try:
        unknown = skops.io.get_untrusted_types(file=path)
        foreign = [name for name in unknown if not name.startswith(_TRUSTED_MODULES)]
        if not foreign:
            model = skops.io.load(path, trusted=unknown)
            check_trees(model)
            return model
    except InvalidArtifact:
        raise
    except Exception as error:  # skops raises whatever numpy, zipfile and json raise
        raise LoadFailed(f"skops refused {path.name}: {error}"[:_MAX_CAUSE]) from error
    raise LoadFailed(
        f"{path.name} holds types of modules that are not trusted: {', '.join(foreign[:5])}; "
        "convert the model to ONNX instead"
    )


def _load_pickle(path: Path, options: RuntimeOptions) -> Any:
    if not options.trust_pickle:
        raise PickleRefused(
            f"{path.name} is a pickle, which runs code when it is loaded; save it with skops or "
            "as ONNX, or push it with --trust-pickle"
        )
    try:
        return joblib.load(path)
    except Exception as error:  # a pickle can raise anything
        raise LoadFailed(f"joblib could not load {path.name}: {error}"[:_MAX_CAUSE]) from error


def _calls(model: Any) -> dict[str, Callable[[Any], AnyArray]]:
    if hasattr(model, "predict"):
        if hasattr(model, "predict_proba"):
            return {LABEL: model.predict, PROBABILITIES: model.predict_proba}
        kind = getattr(model, "_estimator_type", None) or _kind(model)
        return {PREDICTION if kind == "regressor" else LABEL: model.predict}
    if hasattr(model, "transform"):
        return {OUTPUT: model.transform}
    raise LoadFailed(f"{type(model).__name__} neither predicts nor transforms")


def _kind(model: Any) -> str:
    tags = getattr(model, "__sklearn_tags__", None)
    return str(tags().estimator_type) if tags is not None else ""


def _frame(batch: Batch) -> Any:
    try:
        import pandas as pd  # noqa: PLC0415 - only models with mixed columns need it
    except ModuleNotFoundError as error:
        raise ModelFailed(
            "a scikit-learn model with several inputs needs pandas: pip install pandas"
        ) from error
    return pd.DataFrame({name: _column(name, array) for name, array in batch.items()})


def _column(name: str, array: AnyArray) -> AnyArray:
    flat = array.reshape(-1)
    return as_text(name, flat) if flat.dtype == object else flat
