"""Which file holds which runtime; loaded when first needed."""

from importlib import import_module
from typing import Any

from salver.core.errors import UnsupportedFormat
from salver.core.steps import unstepped
from salver.runtimes.base import BatchRuntime, StreamRuntime

BATCH_RUNTIMES: dict[str, str] = {
    "onnx": "salver.runtimes.onnx:OnnxRuntime",
    "sklearn": "salver.runtimes.sklearn:SklearnRuntime",
    "xgboost": "salver.runtimes.xgboost:XgboostRuntime",
    "lightgbm": "salver.runtimes.lightgbm:LightgbmRuntime",
    "torch": "salver.runtimes.torch:TorchRuntime",
    "python": "salver.runtimes.python:PythonRuntime",
}
# Those whose libraries build things of their own when the first model comes.
FIRST_USES: dict[str, str] = {
    "onnx": "salver.runtimes.onnx:first_use",
    "torch": "salver.runtimes.torch:first_use",
}
# What is to be done so too in a process that computes on a GPU: it cannot be forked afterwards.
FIRST_GPU_USES: dict[str, str] = {"onnx": "salver.runtimes.onnx:first_gpu_use"}
STREAM_RUNTIMES: dict[str, str] = {
    "echo-stream": "salver.runtimes.echo_stream:EchoStreamRuntime",
    "python-stream": "salver.runtimes.python_stream:PythonStreamRuntime",
}
ON_GPUS = frozenset({"onnx", "torch"})
# Those whose model is Python source of its author's.
SOURCE_RUNTIMES = frozenset({"python", "python-stream"})
# PyTorch's loaders were not made for files of strangers: what opens one may run what is in it.
CODE_RUNTIMES = SOURCE_RUNTIMES | {"torch"}


def create_batch(name: str) -> BatchRuntime:
    """Return a fresh, empty runtime; raises ``UnsupportedFormat`` for an unknown name."""
    runtime: BatchRuntime = _create(name, BATCH_RUNTIMES)
    return runtime


def prepare_batch(name: str) -> None:
    """Import a runtime's library and have it build what all its models share.

    Raises ``UnsupportedFormat`` for an unknown name.
    """
    create_batch(name)
    _call(FIRST_USES.get(name))


def prepare_gpu(name: str) -> None:
    """Have a runtime's library take what all its models share of a GPU, if there is one."""
    _call(FIRST_GPU_USES.get(name))


def create_stream(name: str) -> StreamRuntime:
    """Return a fresh, empty streaming runtime; raises ``UnsupportedFormat`` for an unknown name."""
    runtime: StreamRuntime = _create(name, STREAM_RUNTIMES)
    return runtime


def is_stream(name: str) -> bool:
    """Tell which contract a runtime follows, with steps around it or without."""
    return unstepped(name) in STREAM_RUNTIMES


def is_code(name: str) -> bool:
    """Tell whether a runtime executes code that came with the model, or cannot be kept from it."""
    return name in CODE_RUNTIMES


def is_source(name: str) -> bool:
    """Tell whether a runtime's models are a folder with ``model.py``."""
    return name in SOURCE_RUNTIMES


def _create(name: str, table: dict[str, str]) -> Any:
    target = table.get(name)
    if target is None:
        known = ", ".join((*BATCH_RUNTIMES, *STREAM_RUNTIMES))
        raise UnsupportedFormat(f"unknown runtime {name!r}; known are {known}")
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)()
    except ModuleNotFoundError as error:
        raise UnsupportedFormat(
            f"runtime {name!r} needs {error.name}, which is not installed: "
            f"pip install 'salver[{name}]'"
        ) from error


def _call(place: str | None) -> None:
    if place is not None:
        module, _, attribute = place.partition(":")
        getattr(import_module(module), attribute)()
