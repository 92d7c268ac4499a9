"""Checks and measures the torch runtime on a GPU; prints one JSON object.

    PYTHONPATH=src python bench/torch_gpu.py

Needs numpy, msgspec and torch beside Salver's sources. For TorchScript and for an exported
program: answers on the GPU are those of the CPU, how many rows a second each gives, a batch that
does not fit the GPU is refused with a code, and the model serves on afterwards. Ends with 1 when
one of these does not hold, with 2 where there is no GPU.
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salver.core.errors import MemoryLimitExceeded, ResourceUnavailable
from salver.core.hosting import AUTO, CPU, CUDA, TENSORRT
from salver.core.tensor import AnyArray
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.torch import TorchRuntime

BATCH_ROWS, SIDE, CHANNELS, CLASSES = 64, 96, 48, 10
RTOL, ATOL = 1e-3, 1e-4
"""FP32 sums in another order; the runtime keeps cuDNN from its shorter TF32."""
SECONDS_EACH = 4.0
WARM_UP_RUNS = 3


class Net(torch.nn.Module):
    """A small image classifier; ``copies`` asks for memory that no GPU has."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        width = 3
        for stride in (2, 1, 2, 1, 2):
            layers += [torch.nn.Conv2d(width, CHANNELS, 3, stride, 1), torch.nn.ReLU()]
            width = CHANNELS
        self.layers = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1))
        self.head = torch.nn.Linear(CHANNELS, CLASSES)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return logits and probabilities for each image."""
        logits = self.head(torch.flatten(self.layers(pixels), 1))
        return {"logits": logits, "probabilities": torch.softmax(logits, 1)}


class Large(torch.nn.Module):
    """Asks for as many bytes as the square of its input's rows, times a billion."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return a sum over an outer product that a few hundred thousand rows make enormous."""
        flat = rows.flatten()
        return (flat[:, None] * flat[None, :]).sum(1)[: rows.shape[0]]


def main() -> int:
    """Run everything and print what was found."""
    if not torch.cuda.is_available():
        print(json.dumps({"error": "no GPU is to be seen"}))
        return 2
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).random((BATCH_ROWS, 3, SIDE, SIDE), np.float32)
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(0),
        "cpu_threads": torch.get_num_threads(),
        "rows": BATCH_ROWS,
        "refusals": refusals(),
    }
    for name, save in {"torchscript": _script, "exported": _export}.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(Path(folder), save, pixels)
    found["ok"] = all(found["refusals"].values()) and all(
        found[name][key] for name in ("torchscript", "exported")
        for key in ("equal", "on_gpu", "auto_takes_gpu", "out_of_memory_coded", "serves_on")
    )  # fmt: skip
    print(json.dumps(found, indent=2))
    return 0 if found["ok"] else 1


def measured(
    root: Path, save: Callable[[torch.nn.Module, Path, AnyArray], None], pixels: AnyArray
) -> dict[str, Any]:
    """Load one file on both devices and compare them."""
    folder = root / "model"
    folder.mkdir()
    save(Net().eval(), folder, pixels[:2])
    cpu, gpu, auto = (_loaded(folder, provider) for provider in (CPU, CUDA, AUTO))
    expected, given = cpu.run({"pixels": pixels}, None), gpu.run({"pixels": pixels}, None)
    difference = max(float(np.abs(expected[name] - given[name]).max()) for name in expected)
    rates = {"cpu": rate(cpu, pixels), "gpu": rate(gpu, pixels)}
    result: dict[str, Any] = {
        "equal": all(np.allclose(expected[n], given[n], RTOL, ATOL) for n in expected),
        "largest_difference": difference,
        "on_gpu": gpu.provider == CUDA and cpu.provider == CPU,
        "auto_takes_gpu": auto.provider == CUDA,
        "rows_per_s": {name: round(value, 1) for name, value in rates.items()},
        "gpu_over_cpu": round(rates["gpu"] / rates["cpu"], 2),
        **out_of_memory(root, save),
    }
    again = gpu.run({"pixels": pixels}, None)
    result["serves_on"] = all(np.allclose(given[n], again[n], RTOL, ATOL) for n in given)
    held = torch.cuda.memory_allocated()
    for runtime in (cpu, gpu, auto):
        runtime.unload()
    result["gpu_bytes_held_and_after_unload"] = [held, torch.cuda.memory_allocated()]
    return result


def rate(runtime: TorchRuntime, pixels: AnyArray) -> float:
    """Return rows a second, copies to and from the device included."""
    for _ in range(WARM_UP_RUNS):
        runtime.run({"pixels": pixels}, None)
    runs, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS_EACH:
        runtime.run({"pixels": pixels}, None)
        runs += 1
    return runs * len(pixels) / (time.perf_counter() - start)


def out_of_memory(
    root: Path, save: Callable[[torch.nn.Module, Path, AnyArray], None]
) -> dict[str, Any]:
    """Ask for four times the memory of the GPU, then for a little."""
    folder = root / "large"
    folder.mkdir()
    save(Large(), folder, np.ones((4, 1), np.float32))
    runtime = _loaded(folder, CUDA)
    name = "rows"
    total = torch.cuda.get_device_properties(0).total_memory
    rows = int((total * 4 / 4) ** 0.5)
    try:
        runtime.run({name: np.ones((rows, 1), np.float32)}, None)
        cause = "it was not refused"
    except MemoryLimitExceeded as error:
        cause = error.message
    small = runtime.run({name: np.ones((8, 1), np.float32)}, None)["output"]
    runtime.unload()
    return {
        "out_of_memory_coded": "too little memory" in cause and bool((small == len(small)).all()),
        "out_of_memory": cause,
    }


def refusals() -> dict[str, bool]:
    """Tell whether what PyTorch cannot compute with is refused with a code."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _script(Large(), folder, np.ones((4, 1), np.float32))
        try:
            _loaded(folder, TENSORRT)
        except ResourceUnavailable as error:
            return {"tensorrt": "cuda" in error.message}
    return {"tensorrt": False}


def _loaded(folder: Path, provider: str) -> TorchRuntime:
    runtime = TorchRuntime()
    runtime.load(folder, None, RuntimeOptions(threads=torch.get_num_threads(), provider=provider))
    return runtime


def _script(model: torch.nn.Module, folder: Path, example: AnyArray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, torch.tensor(example), strict=False)
        traced.save(str(folder / "model.pt"))


def _export(model: torch.nn.Module, folder: Path, example: AnyArray) -> None:
    sizes = ({0: torch.export.Dim("batch", min=1, max=1 << 24)},)
    program = torch.export.export(model, (torch.tensor(example),), dynamic_shapes=sizes)
    torch.export.save(program, folder / "model.pt2")


if __name__ == "__main__":
    sys.exit(main())
