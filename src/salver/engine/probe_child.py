"""The throw-away process: checks the files, loads the model, runs the examples."""

import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import numpy as np

from salver.artifact.code import code_runtime
from salver.artifact.detect import code_refusal, detect_runtime, refuse_pickles, torch_refusal
from salver.artifact.golden import (
    MAX_GOLDEN_BYTES,
    Golden,
    compare,
    parse_golden,
    write_golden,
)
from salver.artifact.requirements import read_requirements
from salver.artifact.validate.base import validate
from salver.core.datatypes import datatype_of
from salver.core.errors import Internal, InvalidArtifact, LoadFailed, SalverError
from salver.core.signature import VARIABLE, Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.engine import probe_sequences
from salver.engine.probe import ProbeFailure, ProbeReport, ProbeRequest, Result, encode_result
from salver.engine.probe_batching import batching
from salver.engine.probe_inputs import inputs_of, outer_signature
from salver.engine.probe_stream import streamed
from salver.engine.worker.padding import Padder
from salver.observe.memory import resident_bytes
from salver.runtimes.base import Batch, BatchRuntime, RuntimeOptions, most_rows_of
from salver.runtimes.stepped import SteppedRuntime, SteppedStreamRuntime
from salver.runtimes.table import create_batch, create_stream, is_code, is_source, is_stream

_MAX_CAUSE = 500
_MAX_VERSIONS = 32
_FRAMEWORKS = {
    "onnx": ("onnxruntime",),
    "sklearn": ("scikit-learn", "skops"),
    "xgboost": ("xgboost-cpu", "xgboost"),
    "lightgbm": ("lightgbm",),
    "torch": ("torch",),
}


_Runner = BatchRuntime | probe_sequences.Completing


def main() -> None:
    """Read the request, examine, write the result."""
    request = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=ProbeRequest)
    if request.memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (request.memory_bytes, request.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    result: Result
    try:
        result = examine(request)
    except SalverError as error:
        result = ProbeFailure(error.code, error.message)
    except MemoryError:
        cause = f"the model needs more than {request.memory_bytes} bytes of memory to load"
        result = ProbeFailure(InvalidArtifact.code, cause)
    except Exception as error:  # whatever a library raises on a damaged file
        cause = f"{type(error).__name__}: {error}"[:_MAX_CAUSE]
        result = ProbeFailure(InvalidArtifact.code, f"the model could not be examined: {cause}")
    Path(sys.argv[2]).write_bytes(encode_result(result))


def examine(request: ProbeRequest) -> ProbeReport:
    """Check, load and try a model; raises the domain error that says what is wrong."""
    folder = Path(request.folder)
    runtime_name = _runtime_name(request, folder)
    validate(runtime_name, folder)
    if is_stream(runtime_name):
        return _stream_report(runtime_name, folder, request)
    runtime = create_batch(runtime_name)
    if request.steps is not None:
        runtime = SteppedRuntime(runtime, request.steps)
    before = resident_bytes()
    try:
        runtime.load(folder, outer_signature(request), _options(request))
    except LoadFailed as error:
        raise InvalidArtifact(error.message) from error
    grown = max(0, resident_bytes() - before)
    return _tried(runtime_name, runtime, request, grown)


def _runtime_name(request: ProbeRequest, folder: Path) -> str:
    """Return the runtime asked for or seen; raises ``CodeRefused`` and ``PickleRefused``.

    Whoever lets source run has let it open any file, pickles included.
    """
    if request.runtime and is_code(request.runtime):
        if not request.trust_code:
            raise code_refusal() if is_source(request.runtime) else torch_refusal()
        if is_source(request.runtime):
            return code_runtime(folder)
    name = request.runtime or detect_runtime(
        folder, trust_pickle=request.trust_pickle, trust_code=request.trust_code
    )
    if not is_source(name) and not request.trust_pickle:
        refuse_pickles(folder)
    return name


def _options(request: ProbeRequest) -> RuntimeOptions:
    return RuntimeOptions(
        request.threads, request.trust_pickle, request.trust_code, request.step_bytes
    )


def _tried(
    name: str, runtime: BatchRuntime, request: ProbeRequest, grown_bytes: int
) -> ProbeReport:
    warnings: list[str] = []
    known, sequences = runtime.signature(), request.sequences
    run: _Runner = runtime
    padder: Padder | None = None
    if sequences is not None:
        if known is None:
            raise InvalidArtifact(f"--sequence: {name} models have no inputs of several axes")
        sequences = probe_sequences.checked(sequences, known)
        padder = Padder(sequences, known)
        run = probe_sequences.Completing(runtime, padder)
        known = probe_sequences.with_optional_mask(known, sequences.mask)
    signature, inputs = inputs_of(known, request, warnings)
    batch = {tensor.name: tensor.array() for tensor in inputs}
    if padder is not None:
        batch = padder.completed(batch)
        inputs = [Tensor.from_array(key, value) for key, value in batch.items()]
    outputs = run.run(batch, None)
    signature = _completed(signature, batch, outputs)
    most_rows = most_rows_of(runtime)
    max_batch_size, note = batching(run, signature, batch, request.steps, most_rows)
    if note:
        warnings.append(f"batching is off: {note}")
    if sequences is not None and not note:
        sequences, problem = probe_sequences.tried(runtime, sequences, signature, batch)
        if problem:
            warnings.append(f"texts of unlike lengths do not run together: {problem}")
            signature = probe_sequences.with_all_inputs(signature)
    if request.golden:
        golden = request.golden
        _meets(run, parse_golden(golden))
    else:
        golden = _recorded(run, inputs, outputs, warnings)
    return ProbeReport(
        name,
        signature,
        golden,
        max_batch_size,
        note,
        grown_bytes,
        _versions(name, Path(request.folder)),
        tuple(warnings),
        sequences,
        most_rows or 0,
    )


def _completed(signature: Signature, batch: Batch, outputs: Batch) -> Signature:
    """Add what running the example has shown of the outputs."""
    declared = {spec.name: spec for spec in signature.outputs}
    rows = next(iter(batch.values())).shape[:1]
    specs = []
    for name, value in outputs.items():
        array = np.asarray(value)
        follows = bool(array.ndim) and array.shape[:1] == rows
        shape = (VARIABLE, *array.shape[1:]) if follows else array.shape
        spec = declared.get(name)
        if spec is not None and len(spec.shape) == array.ndim:
            shape = tuple(
                seen if wanted == VARIABLE and seen == VARIABLE else wanted
                for wanted, seen in zip(spec.shape, shape, strict=True)
            )
        specs.append(TensorSpec(name, datatype_of(array.dtype), tuple(shape)))
    return Signature(signature.inputs, tuple(specs))


def _recorded(runtime: _Runner, inputs: list[Tensor], outputs: Batch, warnings: list[str]) -> bytes:
    """Return the example with its answer as a golden line, nothing where it could not be met.

    Every deploy asks it again: a model that draws random numbers, or answers with bytes that are no
    text, would be refused for ever.
    """
    expected = [Tensor.from_array(key, np.asarray(value)) for key, value in outputs.items()]
    if not _finite([*inputs, *expected]):
        return b""
    golden = write_golden([Golden(inputs, expected)])
    if len(golden) > MAX_GOLDEN_BYTES:
        warnings.append(f"no golden example was recorded: it takes over {MAX_GOLDEN_BYTES} bytes")
        return b""
    try:
        _meets(runtime, parse_golden(golden))
    except SalverError as error:
        warnings.append(f"no golden example was recorded: asked once more, {error.message}")
        return b""
    return golden


def _meets(runtime: _Runner, examples: list[Golden]) -> None:
    for example in examples:
        outputs = runtime.run({t.name: t.array() for t in example.inputs}, None)
        compare(example.outputs, outputs, example.rtol, example.atol)


def _finite(tensors: list[Tensor]) -> bool:
    return all(
        bool(np.isfinite(tensor.array()).all())
        for tensor in tensors
        if tensor.datatype.startswith("FP")
    )


def _stream_report(name: str, folder: Path, request: ProbeRequest) -> ProbeReport:
    runtime = create_stream(name)
    if request.steps is not None:
        runtime = SteppedStreamRuntime(runtime, request.steps)
    before = resident_bytes()
    runtime.load(folder, outer_signature(request), _options(request))
    grown = max(0, resident_bytes() - before)
    warnings: list[str] = []
    signature = runtime.signature()
    if is_code(name):
        signature, inputs = inputs_of(signature, request, warnings)
        outputs = streamed(runtime, {tensor.name: tensor.array() for tensor in inputs})
        signature = Signature(signature.inputs, outputs)
    if signature is None:
        raise Internal(f"runtime {name!r} does not tell its signature")
    versions = _versions(name, folder)
    return ProbeReport(name, signature, b"", 1, "it streams", grown, versions, tuple(warnings))


def _versions(runtime: str, folder: Path) -> dict[str, str]:
    found: dict[str, str] = {"python": sys.version.split()[0], "numpy": np.__version__}
    asked: tuple[str, ...] = ()
    if is_source(runtime):
        asked = tuple(line.requirement.name for line in read_requirements(folder))[:_MAX_VERSIONS]
    for package in (*_FRAMEWORKS.get(runtime, ()), *asked):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
