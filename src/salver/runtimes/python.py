"""Models that are code: a folder with ``model.py`` holding ``class Model``."""

from pathlib import Path
from typing import Any

from salver.artifact.declared_signature import declared_signature
from salver.core.errors import LoadFailed, ModelFailed
from salver.core.signature import Signature
from salver.runtimes.base import Batch, RuntimeOptions
from salver.runtimes.checks import check_batch, pick, read_only
from salver.runtimes.code import Code
from salver.runtimes.code_outputs import checked

PREDICT, STREAM = "predict", "predict_stream"
PREPROCESS, POSTPROCESS = "preprocess", "postprocess"


class PythonRuntime:
    """Batch runtime for ``Model.predict``.

    ``preprocess`` gets the batch, ``predict`` what that returned, ``postprocess`` what predict
    returned; the last of them returns the outputs. All are called from one thread, one batch at a
    time.
    """

    def __init__(self) -> None:
        self._code = Code()
        self._signature: Signature | None = None
        self._methods: tuple[str, ...] = ()

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Import the code and let it load."""
        self._signature = signature or declared_signature(folder)
        self._code.load(folder, options)
        problem = ""
        if self._code.has(STREAM):
            problem = (
                f"class Model has a {STREAM}: define it in the class itself, and without "
                f"{PREDICT}, since callers who ask for no stream get its chunks joined"
            )
        elif not self._code.has(PREDICT):
            problem = f"class Model defines neither {PREDICT} nor {STREAM}"
        if problem:
            self.unload()
            raise LoadFailed(problem)
        steps = (PREPROCESS, PREDICT, POSTPROCESS)
        self._methods = tuple(name for name in steps if self._code.has(name))

    def signature(self) -> Signature | None:
        """Return the signature it was loaded with, or that of ``signature.json``."""
        return self._signature

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer a batch."""
        if not self._code.is_loaded:
            raise ModelFailed("the model is not loaded")
        signature = self._signature
        if signature is not None:
            check_batch(batch, signature.inputs)
        value: Any = read_only(batch)
        for method in self._methods:
            value = self._code.call(method, value)
        declared = signature.outputs if signature is not None else ()
        return pick(checked(value, self._methods[-1], declared), outputs)

    def unload(self) -> None:
        """Release the model and its modules."""
        self._methods = ()
        code, self._code = self._code, Code()
        code.close()
