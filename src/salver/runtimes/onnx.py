"""ONNX models on ONNX Runtime."""

import os
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

# Its telemetry would run a thread in every process, keep a database in the user's home folder,
# and may send it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from salver.core.datatypes import BYTES
from salver.core.errors import (
    InvalidArtifact,
    LoadFailed,
    MemoryLimitExceeded,
    ModelFailed,
    SalverError,
)
from salver.core.garbage import give_back
from salver.core.hosting import CPU
from salver.core.signature import VARIABLE, Signature, TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes import cuda
from salver.runtimes.base import Batch, RuntimeOptions
from salver.runtimes.checks import as_text, check_batch, only_file, pick
from salver.runtimes.ending import end_process
from salver.runtimes.providers import CPU_NAME, CUDA_NAME, short_name, to_try, unavailable

_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}
_MAX_CAUSE = 500
# With shorter mantissas a GPU's answers would differ from those a push was examined with.
_OPTIONS = {CUDA_NAME: {"use_tf32": "0"}}
_NO_MEMORY = "Failed to allocate memory"
_ERRORS_ONLY = 3


class OnnxRuntime:
    """Batch runtime for one graph, external data beside it included."""

    def __init__(self) -> None:
        self._session: onnxruntime.InferenceSession | None = None
        self._signature: Signature | None = None
        self._outputs: list[str] = []
        self._text_inputs: frozenset[str] = frozenset()
        self._run_options: onnxruntime.RunOptions | None = None

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load the one ``.onnx`` file of the folder."""
        path = only_file(folder, (".onnx",))
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _ERRORS_ONLY
        # Spinning threads would take the cores of the other processes.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = _session(path, settings, options.provider)
        # Without any, the session makes some for each run.
        self._run_options = onnxruntime.RunOptions()
        self._signature = signature or _signature_of(self._session)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._text_inputs = frozenset(
            spec.name for spec in self._signature.inputs if spec.datatype == BYTES
        )

    @property
    def provider(self) -> str:
        """What the session computes with, as far as that can compute the graph."""
        return "" if self._session is None else short_name(self._session.get_providers()[0])

    def signature(self) -> Signature | None:
        """Return the graph's inputs and outputs."""
        return self._signature

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer a batch; only the wanted outputs are computed."""
        session, signature = self._session, self._signature
        if session is None or signature is None:
            raise ModelFailed("the model is not loaded")
        check_batch(batch, signature.inputs)
        names = self._outputs
        if outputs is not None:
            pick(dict.fromkeys(names, _NOTHING), outputs)
            names = list(outputs)
        if self._text_inputs:
            batch = {
                name: as_text(name, array) if name in self._text_inputs else array
                for name, array in batch.items()
            }
        try:
            values = session.run(names, batch, self._run_options)
        except Exception as error:  # ONNX Runtime's own exception classes have no common base
            raise self._failed(error) from error
        return dict(zip(names, values, strict=True))

    def unload(self) -> None:
        """Release the session."""
        self._session = self._run_options = None
        give_back()

    def _failed(self, error: Exception) -> SalverError:
        """Say why a run failed; a GPU that answers no more ends the process."""
        if self.provider != CPU:
            if _NO_MEMORY in str(error):
                return MemoryLimitExceeded(_FEWER_ROWS)
            lost = cuda.failure()
            if lost:
                end_process("device_lost", f"{lost}: {error}; the process is restarted")
        return ModelFailed(f"ONNX Runtime: {error}"[:_MAX_CAUSE])


_FEWER_ROWS = (
    "the GPU has too little memory for this batch; send fewer rows, lower max_batch_size, or give "
    "the model a larger GPU"
)
_NOTHING: AnyArray = np.empty(0)

# A graph of one node, y = x + x, for one FP32; `onnx`, which could write it, may be missing.
_SMALLEST = bytes.fromhex(
    "080912003a350a0e0a01780a017812017922034164641201675a0f0a0178120a0a08080112040a020801620f0a"
    "0179120a0a08080112040a02080142040a001011"
)


def first_use() -> None:
    """Have ONNX Runtime build what all sessions of a process share, about 12 MB."""
    _run_smallest([CPU_NAME])


def first_gpu_use() -> None:
    """Have CUDA's libraries loaded and a context made, some hundred megabytes of memory and GPU."""
    if CUDA_NAME in onnxruntime.get_available_providers():
        _preload()
        # Where no GPU works each model is told so, or goes to the CPU.
        with suppress(Exception):
            _run_smallest([CUDA_NAME, CPU_NAME])


def _run_smallest(providers: list[str]) -> None:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(_SMALLEST, settings, providers=providers)
    session.run(None, {"x": np.ones(1, np.float32)})


def _session(
    path: Path, settings: onnxruntime.SessionOptions, asked: str
) -> onnxruntime.InferenceSession:
    """Return a session on the provider that was asked for, or on the best that works.

    Where a device or a library is missing, ONNX Runtime says so or goes back to the CPU silently.
    """
    there = onnxruntime.get_available_providers()
    if asked != CPU and CUDA_NAME in there:
        _preload()
    for names in to_try(asked, there):
        try:
            options = [_OPTIONS.get(name, {}) for name in names]
            session = onnxruntime.InferenceSession(
                str(path), settings, providers=names, provider_options=options
            )
        except Exception as error:  # ONNX Runtime's own exception classes have no common base
            why = f"ONNX Runtime refused {path.name}: {error}"[:_MAX_CAUSE]
            if names == [CPU_NAME]:
                raise LoadFailed(why) from error
        else:
            why = "no device works with it"
            if session.get_providers()[0] == names[0]:
                return session
    # What the CPU cannot load either is the file's fault, and told as such.
    _session(path, settings, CPU)
    raise unavailable(asked, [name for name in there if name != names[0]], why)


def _preload() -> None:
    """Load CUDA's libraries from their Python packages, where a session would not look for them.

    What is missing is told by the session, so what is printed here is dropped.
    """
    with redirect_stdout(StringIO()):
        onnxruntime.preload_dlls()


def _signature_of(session: onnxruntime.InferenceSession) -> Signature:
    return Signature(
        tuple(_spec(item) for item in session.get_inputs()),
        tuple(_spec(item) for item in session.get_outputs()),
    )


def _spec(item: Any) -> TensorSpec:
    datatype = _TYPES.get(item.type)
    if datatype is None:
        raise InvalidArtifact(
            f"{item.name!r} is {item.type}, which the protocol cannot carry; export it as a plain "
            "tensor (for classifiers of skl2onnx: options={'zipmap': False})"
        )
    shape = tuple(size if isinstance(size, int) else VARIABLE for size in item.shape or ())
    return TensorSpec(item.name, datatype, shape)
