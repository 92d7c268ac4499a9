"""What models of boosted trees have in common, whichever library reads and runs them."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np

from salver.core.errors import LoadFailed, ModelFailed
from salver.core.garbage import give_back
from salver.core.hosting import CPU
from salver.core.signature import Signature
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch, RuntimeOptions
from salver.runtimes.checks import check_batch, only_file, pick

INPUT = "input"
OUTPUT = "prediction"
_MAX_CAUSE = 500

Booster = TypeVar("Booster")


class BoosterRuntime(ABC, Generic[Booster]):
    """Batch runtime: one tensor ``input`` of ``dtype`` in, ``prediction`` out.

    The prediction is the model's transformed output: a probability for two classes, one column for
    each class for more, the value for regressions. ``library`` is what people call the library,
    ``suffixes`` the files that it reads, ``errors`` what it raises besides ``ValueError``.
    """

    provider = CPU
    library: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    dtype: ClassVar[type[np.float32 | np.float64]]
    errors: ClassVar[type[Exception]]

    def __init__(self) -> None:
        self._booster: Booster | None = None
        self._signature: Signature | None = None
        self._threads = 1

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load the one file of the folder."""
        path = only_file(folder, self.suffixes)
        self._threads = options.threads
        try:
            booster = self._open(path)
        except (self.errors, ValueError, TypeError) as error:
            cause = f"{self.library} refused {path.name}: {error}"
            raise LoadFailed(cause[:_MAX_CAUSE]) from error
        self._booster = booster
        self._signature = signature or self._signature_of(booster)

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
            return pick({OUTPUT: np.empty((0, *width), self.dtype)}, outputs)
        try:
            prediction = self._predict(self._booster, rows)
        except (self.errors, ValueError) as error:
            raise ModelFailed(f"{self.library}: {error}"[:_MAX_CAUSE]) from error
        return pick({OUTPUT: np.asarray(prediction, self.dtype)}, outputs)

    def unload(self) -> None:
        """Release the booster."""
        self._booster = None
        give_back()

    @abstractmethod
    def _open(self, path: Path) -> Booster:
        """Read a model for ``_threads``."""

    @abstractmethod
    def _predict(self, booster: Booster, rows: AnyArray) -> AnyArray:
        """Return what a model says of rows, of which there is one at least."""

    @abstractmethod
    def _signature_of(self, booster: Booster) -> Signature:
        """Return the signature that a model itself tells, without outputs."""
