"""Writes models that are code, for the tests of what runs them."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import TypeVar

from salver.core.signature import Signature, TensorSpec
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.python import PythonRuntime
from salver.runtimes.python_stream import PythonStreamRuntime

SIGNATURE = Signature((TensorSpec("x", "FP64", (-1, 1)),), ())
TRUSTED = RuntimeOptions(trust_code=True)
DOUBLE = """
import numpy as np

class Model:
    def predict(self, inputs):
        return {"y": 2 * inputs["x"]}
"""


def write(folder: Path, source: str, **files: str) -> Path:
    """Write ``model.py`` and files beside it; names use ``__`` for a dot. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(dedent(source))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(dedent(text))
    return folder


def body(*lines: str) -> str:
    """Return a model whose predict has these lines."""
    inside = "\n".join(f"        {line}" for line in lines)
    return f"import numpy as np\n\nclass Model:\n    def predict(self, inputs):\n{inside}\n"


def loaded(folder: Path, source: str, signature: Signature | None = SIGNATURE) -> PythonRuntime:
    """Return such a model, loaded."""
    return _load(PythonRuntime, folder, source, signature)


def loaded_stream(
    folder: Path, source: str, signature: Signature | None = SIGNATURE
) -> PythonStreamRuntime:
    """Return a streaming model, loaded."""
    return _load(PythonStreamRuntime, folder, source, signature)


Made = TypeVar("Made", PythonRuntime, PythonStreamRuntime)


def _load(kind: Callable[[], Made], folder: Path, source: str, signature: Signature | None) -> Made:
    runtime = kind()
    runtime.load(write(folder, source), signature, TRUSTED)
    return runtime
