"""Check what a machine without a GPU cannot: models on a real one, through a whole server.

Run: `PYTHONPATH=. python scripts/gpu_check.py MODEL [--rows 16] [--seconds 4] [--output FILE]`.
An ONNX model needs `onnxruntime-gpu[cuda,cudnn]` in place of `onnxruntime`; of a PyTorch model the
server is checked, and the runtime by `bench/torch_gpu.py`. The model must have one FP32 input whose
first
axis is open. Prints a JSON document; ends with 1 when something is not as it must be.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime

from salver.core.errors import SalverError
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.onnx import OnnxRuntime
from scripts.gpu_server import ask, body, refused, report, salver, serving, until

_CALLERS = 4
_SHARE_OF_FREE = 0.97


def main() -> int:
    """Check everything and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    steps: dict[str, Callable[[], Any]] = {}
    if options.model.suffix == ".onnx":
        steps["runtime"] = lambda: _runtime(options.model, options.rows, options.seconds)
    steps["server"] = lambda: _server(options.model, options.rows, options.seconds)
    return report({"machine": _machine()}, steps, options.output)


def _machine() -> dict[str, Any]:
    query = "--query-gpu=name,driver_version,memory.total"
    gpus = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader"], check=True, capture_output=True, text=True
    ).stdout.strip()
    providers = onnxruntime.get_available_providers()
    return {
        "gpus": gpus.splitlines(),
        "onnxruntime": onnxruntime.__version__,
        "providers": providers,
        "cpus": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
    }


def _loaded(model: Path, provider: str) -> OnnxRuntime:
    runtime = OnnxRuntime()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(model, folder)
        runtime.load(Path(folder), None, RuntimeOptions(provider=provider, threads=1))
    return runtime


def _batch(runtime: OnnxRuntime, rows: int) -> dict[str, Any]:
    signature = runtime.signature()
    assert signature is not None
    (spec,) = signature.inputs
    shape = [rows, *(size if size > 0 else 1 for size in spec.shape[1:])]
    return {spec.name: np.random.default_rng(1).random(shape, np.float32)}


def _runtime(model: Path, rows: int, seconds: float) -> dict[str, Any]:
    """Compare CUDA's answers and speed with the processor's, and see refusals."""
    found: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    for provider in ("cpu", "cuda", "auto"):
        runtime = _loaded(model, provider)
        found[f"{provider}_uses"] = runtime.provider
        batch = _batch(runtime, rows)
        answers[provider] = runtime.run(batch, None)
        count, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            runtime.run(batch, None)
            count += rows
        found[f"{provider}_rows_per_s"] = round(count / seconds, 1)
        runtime.unload()
    found["largest_difference"] = max(
        float(np.abs(answers["cpu"][name] - answers["cuda"][name]).max()) for name in answers["cpu"]
    )
    for provider in ("tensorrt",):
        try:
            found[provider] = _loaded(model, provider).provider
        except SalverError as error:
            found[provider] = f"{error.code}: {error.message}"
    assert found["cuda_uses"] == found["auto_uses"] == "cuda", found
    found["out_of_memory"] = _out_of_memory(model, rows)
    return found


def _out_of_memory(model: Path, rows: int) -> dict[str, str]:
    """Take nearly all of the GPU's memory away: a run must fail with a code, then work again."""
    torch = import_module("torch")

    runtime = _loaded(model, "cuda")
    runtime.run(_batch(runtime, 1), None)
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(int(free * _SHARE_OF_FREE), dtype=torch.uint8, device="cuda")
    big = _batch(runtime, max(2048, rows))
    found = {}
    try:
        runtime.run(big, None)
        found["large_batch"] = "answered: the memory left was enough"
    except SalverError as error:
        found["large_batch"] = f"{error.code}: {error.message[:200]}"
    found["one_row_after_it"] = str([*runtime.run(_batch(runtime, 1), None)])
    del taken
    torch.cuda.empty_cache()
    found["with_memory_again"] = str([*runtime.run(_batch(runtime, rows), None)])
    return found


def _server(model: Path, rows: int, seconds: float) -> dict[str, Any]:
    """Serve the model on both, compare answers and speed, kill the worker on the GPU."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url:
        return _drive(model, Path(folder), url, (rows, seconds))


def _drive(model: Path, home: Path, url: str, load: tuple[int, float]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("gpu", "both", "cpu", "other"):
        trust = () if model.suffix == ".onnx" else ("--trust-code",)
        salver(home, "push", str(model), "--name", name, *trust)
    begun = time.perf_counter()
    salver(home, "deploy", "gpu:1", "--gpu", "0", "--hosting", "dedicated")
    found["deploy_on_gpu_s"] = round(time.perf_counter() - begun, 2)
    salver(home, "deploy", "both:1", "--hosting", "shared")
    salver(home, "deploy", "cpu:1", "--provider", "cpu", "--hosting", "dedicated")
    found["gpu_that_is_missing"] = refused(home, "deploy", "other:1", "--gpu", "63")
    found["workers"] = json.loads(salver(home, "get", "workers", "-o", "json"))
    found["in_nvidia_smi"] = subprocess.run(
        ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    rows, seconds = load
    request = body(url, "cpu", rows)
    answers = {name: ask(url, name, request) for name in ("gpu", "cpu", "both")}
    found["largest_difference"] = float(np.abs(answers["cpu"] - answers["gpu"]).max())
    found["rows_per_s"] = {
        name: _closed_loop(url, name, request, seconds) * rows for name in ("cpu", "gpu", "both")
    }
    found["after_kill"] = _kill(home, url, request)
    return found


def _kill(home: Path, url: str, request: bytes) -> dict[str, Any]:
    """End the worker on the GPU, and say how long until its model answers from the GPU again."""
    workers = json.loads(salver(home, "get", "workers", "-o", "json"))
    pid = next(w["pid"] for w in workers if w["gpu"] is not None and w["kind"] != "quarantine")
    os.kill(pid, signal.SIGKILL)
    begun = time.perf_counter()
    until(lambda: ask(url, "gpu", request) is not None)
    return {"answers_again_after_s": round(time.perf_counter() - begun, 2)}


def _closed_loop(url: str, name: str, request: bytes, seconds: float) -> float:
    counts, end = [0] * _CALLERS, time.perf_counter() + seconds

    def call(place: int) -> None:
        with httpx.Client() as client:
            while time.perf_counter() < end:
                ask(url, name, request, client)
                counts[place] += 1

    threads = [threading.Thread(target=call, args=(place,)) for place in range(_CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(sum(counts) / seconds, 1)


if __name__ == "__main__":
    sys.exit(main())
