"""TorchScript and exported programs on PyTorch.

Neither is meant to hold Python of its author's, but PyTorch's loaders may run what is in a file
made for it: a push needs trust, and ``artifact.validate.torch`` refuses what is known to do more.
"""

import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils import _pytree as pytree

from salver.artifact.declared_signature import declared_signature
from salver.artifact.torch_archive import SUFFIXES, Kind, kind_of
from salver.core.errors import (
    InvalidArtifact,
    InvalidTensor,
    LoadFailed,
    MemoryLimitExceeded,
    ModelFailed,
    ResourceUnavailable,
    SalverError,
)
from salver.core.garbage import give_back
from salver.core.hosting import AUTO, CPU, CUDA
from salver.core.signature import VARIABLE, Signature, TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch, RuntimeOptions
from salver.runtimes.checks import check_batch, only_file, pick

OUTPUT = "output"
_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
    # numpy has no such number, so it travels as the next wider one.
    torch.bfloat16: "FP32",
}
_MAX_CAUSE = 500
_MAX_OUTPUTS = 256
_MAX_NESTING = 8
_UNBOUNDED = int(np.iinfo(np.int64).max)
# The interpreter of TorchScript wraps what a device says.
_NO_MEMORY = ("can't allocate memory", "CUDA out of memory")
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_force_lock = threading.Lock()


class Input(NamedTuple):
    """One tensor that a program takes.

    ``dtype`` is what it is cast to, None for as it came. ``sizes`` names the sizes that may vary,
    so that equal names must be equal sizes; None where the file does not tell.
    """

    name: str
    dtype: torch.dtype | None = None
    sizes: tuple[int | str, ...] | None = None
    optional: bool = False


class TorchRuntime:
    """Batch runtime for one TorchScript module or exported program.

    Outputs: one tensor is ``output``, a tuple or list ``output_0``…, a dict its keys; what
    ``signature.json`` declares renames them in order.
    """

    def __init__(self) -> None:
        self._program: Script | Exported | None = None
        self._signature: Signature | None = None
        self._output_names: tuple[str, ...] = ()
        self._device = torch.device(CPU)
        self._threads = 1

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load the one file of the folder onto the CPU, or a GPU if that is wanted and there."""
        path = only_file(folder, SUFFIXES)
        self._device, self._threads = _device(options.provider), options.threads
        _one_interop_thread()
        self._use_threads()
        try:
            script = kind_of(path) is Kind.SCRIPT
        except InvalidArtifact as error:
            raise LoadFailed(error.message) from error
        try:
            with _quiet(), torch.no_grad():
                program = (Script if script else Exported)(path, self._device)
        except SalverError:
            raise
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory("the model") from error
        except Exception as error:  # torch raises whatever zip files, JSON and C++ raise
            raise LoadFailed(f"PyTorch refused {path.name}: {error}"[:_MAX_CAUSE]) from error
        declared = declared_signature(folder)
        self._signature = signature or declared or _signature_of(program)
        self._output_names = tuple(spec.name for spec in declared.outputs) if declared else ()
        if self._signature is not None:
            _bound(program, tuple(spec.name for spec in self._signature.inputs))
        self._program = program

    @property
    def provider(self) -> str:
        """What it computes with: ``cpu`` or ``cuda``."""
        return "" if self._program is None else self._device.type

    @property
    def most_rows(self) -> int | None:
        """How many rows an exported program takes at once, None where nothing bounds them."""
        program = self._program
        if program is None:
            return None
        firsts = (str(item.sizes[0]) for item in program.inputs if item.sizes)
        highs = (program.ranges[size][1] for size in firsts if size in program.ranges)
        most = min(highs, default=_UNBOUNDED)
        return most if most < _UNBOUNDED else None

    def signature(self) -> Signature | None:
        """Return what an exported program or ``signature.json`` tells, None for TorchScript."""
        return self._signature

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer a batch."""
        program = self._program
        if program is None:
            raise ModelFailed("the model is not loaded")
        if self._signature is not None:
            check_batch(batch, self._signature.inputs)
        bound = _bound(program, tuple(batch))
        _check_sizes(program, bound, batch)
        self._use_threads()
        try:
            with torch.inference_mode():
                tensors = {
                    item.name: self._tensor(batch[name], item) for name, item in bound.items()
                }
                answer = self._arrays(program(tensors))
        except SalverError:
            raise
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory("this batch") from error
        except torch.AcceleratorError as error:
            raise self._lost(error) from error
        except Exception as error:  # operators raise RuntimeError, IndexError, AssertionError…
            if any(text in str(error) for text in _NO_MEMORY):
                raise self._out_of_memory("this batch") from error
            raise ModelFailed(f"PyTorch: {_last_line(error)}"[:_MAX_CAUSE]) from error
        return pick(answer, outputs)

    def unload(self) -> None:
        """Release the model's memory."""
        self._program = None
        give_back()
        if self._device.type == CUDA:
            torch.cuda.empty_cache()

    def _tensor(self, array: AnyArray, item: Input) -> torch.Tensor:
        """Return a copy, since a program may write into what it is given."""
        return torch.tensor(array, dtype=item.dtype, device=self._device)

    def _arrays(self, answer: Any) -> Batch:
        """Return copies, since a program may answer with what its next run writes into."""
        named = dict(_leaves(answer, "", _MAX_NESTING))
        if len(named) > _MAX_OUTPUTS:
            raise ModelFailed(f"the model gives {len(named)} outputs; {_MAX_OUTPUTS} are possible")
        names = self._output_names or tuple(named)
        if len(names) != len(named):
            raise ModelFailed(
                f"signature.json declares {len(names)} outputs, the model gives {len(named)}: "
                f"{', '.join(named)}"[:_MAX_CAUSE]
            )
        return {name: _array(value) for name, value in zip(names, named.values(), strict=True)}

    def _use_threads(self) -> None:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def _out_of_memory(self, what: str) -> SalverError:
        if self._device.type == CUDA:
            torch.cuda.empty_cache()
        return MemoryLimitExceeded(
            f"the {self._device.type.upper()} device has too little memory for {what}; send fewer "
            "rows, lower max_batch_size, or give the model a larger device"
        )

    def _lost(self, error: Exception) -> SalverError:
        """Say that a kernel failed; what CUDA cannot recover from ends the process."""
        if self._device.type == CUDA:
            from salver.runtimes.ending import end_process  # noqa: PLC0415 - needed once at most

            end_process("device_lost", f"{_last_line(error)}; the process is restarted")
        return ModelFailed(f"PyTorch: {_last_line(error)}"[:_MAX_CAUSE])


class Script:
    """A TorchScript module; its ``forward`` is called."""

    ranges: Mapping[str, tuple[int, int]] = {}

    def __init__(self, path: Path, device: torch.device) -> None:
        self._module = torch.jit.load(str(path), map_location=device).eval()
        if not hasattr(self._module, "forward"):
            raise LoadFailed(f"{path.name} has no forward method")
        floating = {
            tensor.dtype
            for tensor in (*self._module.parameters(), *self._module.buffers())
            if tensor.is_floating_point()
        }
        self._dtype = floating.pop() if len(floating) == 1 else None
        arguments = self._module.forward.schema.arguments[1:]
        self.inputs = tuple(
            Input(item.name, optional=item.has_default_value())
            for item in arguments
            if str(item.type) in ("Tensor", "Optional[Tensor]")
        )
        known = {item.name for item in self.inputs}
        for item in arguments:
            if item.name not in known and not item.has_default_value():
                raise LoadFailed(
                    f"forward takes {item.name}: {item.type}; only tensors can be sent, so wrap "
                    "the model in one whose forward takes each tensor by itself"
                )

    def __call__(self, tensors: dict[str, torch.Tensor]) -> Any:
        """Call ``forward``; numbers with a fraction are cast to what the weights are."""
        for name, tensor in tensors.items():
            if self._dtype is not None and tensor.is_floating_point():
                tensors[name] = tensor.to(self._dtype)
        return self._module(**tensors)


class Exported:
    """An exported program, called without the checks that come with it as code."""

    def __init__(self, path: Path, device: torch.device) -> None:
        with _weights_only():
            program = torch.export.load(path)
        if device.type != CPU:
            from torch.export.passes import move_to_device_pass  # noqa: PLC0415 - GPUs only

            program = move_to_device_pass(program, device)
        self._in_spec = program.call_spec.in_spec
        self._flat: list[Any] = []
        self.inputs = tuple(self._inputs(program))
        self.ranges = {
            str(symbol): (_bound_of(found.lower), _bound_of(found.upper))
            for symbol, found in program.range_constraints.items()
        }
        # The guards of a file are Python source that torch would execute.
        module = program.module(check_guards=False)
        sizes = {size for item in self.inputs for size in item.sizes or ()}
        plain = all(isinstance(size, int) or size.isidentifier() for size in sizes)
        # torch's own check of sizes takes five times as long as a small model; ours knows those
        # that are a name, and torch those that follow from others.
        self._call = module.forward if plain else module

    def _inputs(self, program: Any) -> Iterator[Input]:
        values = {
            node.name: node.meta.get("val")
            for node in program.graph.nodes
            if node.op == "placeholder"
        }
        for spec in program.graph_signature.input_specs:
            if spec.kind.name != "USER_INPUT":
                continue
            value = values.get(getattr(spec.arg, "name", ""))
            if not isinstance(value, torch.Tensor):
                self._flat.append((None, getattr(spec.arg, "value", value)))
                continue
            self._flat.append((spec.arg.name, None))
            sizes = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
            yield Input(spec.arg.name, value.dtype, sizes)

    def __call__(self, tensors: dict[str, torch.Tensor]) -> Any:
        """Call the program with its inputs nested as when it was exported."""
        flat = [value if name is None else tensors[name] for name, value in self._flat]
        args, kwargs = pytree.tree_unflatten(flat, self._in_spec)
        return self._call(*args, **kwargs)


Program = Script | Exported


def first_use() -> None:
    """Import what torch puts off until the first exported program is loaded."""
    import torch._export.serde.serialize  # noqa: PLC0415
    import torch.export.pt2_archive._package  # noqa: PLC0415, F401


def _device(asked: str) -> torch.device:
    """Return the device that was asked for, or the best that there is."""
    if asked == CPU:
        return torch.device(CPU)
    there = torch.cuda.is_available()
    if asked in (AUTO, CUDA) and there:
        # TF32 has three digits, so a GPU would not answer as the CPU did at the push.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        return torch.device(CUDA, torch.cuda.current_device())
    if asked == AUTO:
        return torch.device(CPU)
    why = "PyTorch computes with cpu and cuda"
    if asked == CUDA:
        built = torch.version.cuda
        why = f"PyTorch {torch.__version__} {'finds no GPU' if built else 'is built without CUDA'}"
    raise ResourceUnavailable(
        f"execution provider {asked!r} cannot be used: {why}; available here: "
        f"{'cpu, cuda' if there else 'cpu'}"
    )


def _one_interop_thread() -> None:
    if torch.get_num_interop_threads() == 1:
        return
    try:
        torch.set_num_interop_threads(1)
    except RuntimeError:  # somebody computed with it before, and it is too late
        return


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from warning of its own plans."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _weights_only() -> Iterator[None]:
    """Have every ``torch.load`` refuse what is no plain tensor, also where torch asks for more."""
    with _force_lock:
        before = os.environ.get(_FORCE)
        os.environ[_FORCE] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FORCE]
            else:
                os.environ[_FORCE] = before


def _signature_of(program: Program) -> Signature | None:
    specs = []
    for item in program.inputs:
        if item.sizes is None:
            return None
        if item.dtype not in _DATATYPES:
            raise InvalidArtifact(
                f"input {item.name!r} is {item.dtype}, which the protocol cannot carry"
            )
        shape = tuple(size if isinstance(size, int) else VARIABLE for size in item.sizes)
        specs.append(TensorSpec(item.name, _DATATYPES[item.dtype], shape))
    return Signature(tuple(specs), ())


def _bound(program: Program, names: tuple[str, ...]) -> dict[str, Input]:
    """Return which input of the program each name is: of that name, else in order."""
    known = {item.name: item for item in program.inputs}
    required = sum(not item.optional for item in program.inputs)
    if known.keys() >= set(names) and all(
        item.optional or item.name in names for item in program.inputs
    ):
        return {name: known[name] for name in names}
    if not required <= len(names) <= len(known):
        raise InvalidTensor(f"the model takes {', '.join(known)}; {', '.join(names)} were given")
    return dict(zip(names, program.inputs, strict=False))


def _check_sizes(program: Program, bound: dict[str, Input], batch: Batch) -> None:
    """Raise ``InvalidTensor`` for sizes that the program was not exported for."""
    seen: dict[str, int] = {}
    for name, item in bound.items():
        for size, wanted in zip(batch[name].shape, item.sizes or (), strict=False):
            if isinstance(wanted, int):
                continue
            if seen.setdefault(wanted, size) != size:
                raise InvalidTensor(
                    f"input {name!r} has a size of {size} where another input has {seen[wanted]}"
                )
            low, high = program.ranges.get(wanted, (0, size))
            if not low <= size <= high:
                raise InvalidTensor(
                    f"input {name!r} has a size of {size}; the model was exported for {low} to "
                    f"{high}"
                )


def _bound_of(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return _UNBOUNDED


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the tensors and numbers of an answer with their names."""
    if depth == 0:
        raise ModelFailed(f"the model's answer nests deeper than {_MAX_NESTING}")
    if isinstance(value, torch.Tensor | bool | int | float):
        yield path or OUTPUT, value
        return
    if isinstance(value, dict):
        items = [(f"{path}_{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        names = value._fields
        items = [
            (f"{path}_{name}" if path else name, item)
            for name, item in zip(names, value, strict=True)
        ]
    elif isinstance(value, tuple | list):
        items = [(f"{path or OUTPUT}_{index}", item) for index, item in enumerate(value)]
    elif value is None:
        return
    else:
        raise ModelFailed(f"the model answers {type(value).__name__}; only tensors can be sent")
    for name, item in items:
        yield from _leaves(item, name, depth - 1)


def _array(value: Any) -> AnyArray:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    if value.is_quantized:
        value = value.dequantize()
    if value.dtype not in _DATATYPES:
        raise ModelFailed(f"the model answers {value.dtype}, which the protocol cannot carry")
    dtype = torch.float32 if value.dtype == torch.bfloat16 else value.dtype
    array: AnyArray = value.detach().to("cpu", dtype, copy=True).contiguous().numpy()
    return array


def _last_line(error: Exception) -> str:
    """Return what failed, without the trace of the program that torch puts before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
