"""Check the budget of GPU memory, and what comes of a GPU that fails under a request.

Run: `PYTHONPATH=. python scripts/gpu_limits_check.py MODEL [--output FILE]` with an ONNX model that
has one FP32 input whose first axis is open, `onnxruntime-gpu[cuda,cudnn]`, and `torch` for CUDA.
Prints a JSON document; ends with 1 when something is not as it must be.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from scripts.gpu_server import ask, body, report, salver, serving, until

_COPIES = 5
_FIT = 2.5
_ROUNDS = 3
_SLACK = 1.1
_LOOKED_UP = 8
_OUT_OF_RANGE = 1_000_000
_LOST_STATUS = 70
_TAIL = 1500
_SNAPSHOT_S = 2.0


def main() -> int:
    """Check everything and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    steps: dict[str, Callable[[], Any]] = {
        "lost_in_onnx": lambda: _lost_in_onnx(options.model),
        "lost_in_torch": _lost_in_torch,
        "budget": lambda: _budget(options.model),
    }
    return report({}, steps, options.output)


def _budget(model: Path) -> dict[str, Any]:
    """Ask more models than fit into a GPU's budget: all answer, and the memory keeps within it."""
    names = [f"copy{index}" for index in range(_COPIES)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with serving(home, {"SALVER_ENGINE__GPU_MEMORY_BUDGET_BYTES": str(1 << 40)}) as url:
            for name in names:
                salver(home, "push", str(model), "--name", name)
            salver(home, "deploy", f"{names[0]}:1", "--hosting", "shared")
            request = body(url, names[0], 1)
            ask(url, names[0], request)
            time.sleep(_SNAPSHOT_S)
            size = _metric(home, "salver_model_gpu_bytes")
            base = _metric(home, "salver_gpu_memory_base_bytes")
            alone = _occupied(home)
        assert size > 0, "the driver does not tell what a process occupies"
        budget = int(max(alone, base + size) + (_FIT - 1) * size)
        with serving(home, {"SALVER_ENGINE__GPU_MEMORY_BUDGET_BYTES": str(budget)}) as url:
            for name in names:
                salver(home, "deploy", f"{name}:1", "--hosting", "shared", "--endpoint", name)
            most = 0
            for _ in range(_ROUNDS):
                for name in names:
                    ask(url, name, request)
                    most = max(most, _occupied(home))
            time.sleep(_SNAPSHOT_S)
            found = {
                "model_gpu_bytes": size,
                "base_gpu_bytes": base,
                "budget_bytes": budget,
                "most_occupied_bytes": most,
                "evictions": _metric(home, "salver_model_evictions_total"),
                "answers": _ROUNDS * _COPIES,
            }
    assert found["evictions"] >= _ROUNDS, found
    assert most <= _SLACK * budget, found
    return found


def _occupied(home: Path) -> int:
    """Return what the shared worker occupies of the GPU, as ``nvidia-smi`` tells it."""
    workers = json.loads(salver(home, "get", "workers", "-o", "json"))
    (pid,) = [worker["pid"] for worker in workers if worker["kind"] == "shared"]
    lines = subprocess.run(
        ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    pairs = [line.split(",") for line in lines if "," in line]
    return sum(int(size) << 20 for number, size in pairs if int(number) == pid)


def _metric(home: Path, name: str) -> float:
    state = json.loads((home / "run" / "supervisor.json").read_text())
    text = httpx.get(f"{state['control_url']}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


_POISONED = """
import sys, tempfile, shutil
from pathlib import Path
import numpy as np
import torch
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.onnx import OnnxRuntime
runtime = OnnxRuntime()
with tempfile.TemporaryDirectory() as folder:
    shutil.copy(sys.argv[1], folder)
    runtime.load(Path(folder), None, RuntimeOptions(provider="cuda"))
(spec,) = runtime.signature().inputs
batch = {spec.name: np.zeros([1, *(max(1, size) for size in spec.shape[1:])], np.float32)}
runtime.run(batch, None)
try:
    table = torch.zeros(8, device="cuda")
    table[torch.tensor([1000000], device="cuda")].cpu()
except Exception as error:
    print("poisoned:", type(error).__name__)
runtime.run(batch, None)
print("answered")
"""


def _lost_in_onnx(model: Path) -> dict[str, Any]:
    """Have a kernel fail in a process that runs an ONNX model: its next run ends the process."""
    done = subprocess.run(
        [sys.executable, "-c", _POISONED, str(model)], check=False, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    assert "device_lost" in said, said[-_TAIL:]
    assert done.returncode == _LOST_STATUS, f"it ended with {done.returncode}: {said[-_TAIL:]}"
    return {"status": done.returncode}


def _lost_in_torch() -> dict[str, Any]:
    """Send a PyTorch model a request on which its kernel fails: it is refused, the next answered.

    The model beside it in another worker answers throughout.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("lookup", "beside"):
            _write_lookup(home / name)
        with serving(home) as url:
            for name in ("lookup", "beside"):
                path, example = home / name / "model.pt", home / name / "example.json"
                trust = ("--trust-code", "--example", str(example))
                salver(home, "push", str(path), "--name", name, *trust)
                salver(home, "deploy", f"{name}:1", "--gpu", "0", "--endpoint", name)
            assert _look_up(url, "lookup", 1) == (200, None)
            refused = _look_up(url, "lookup", _OUT_OF_RANGE)
            begun = time.perf_counter()
            beside = _look_up(url, "beside", 1)
            until(lambda: _look_up(url, "lookup", 1)[0] == httpx.codes.OK)
            back_s = round(time.perf_counter() - begun, 2)
            log = (home / "up.log").read_text() + salver(home, "logs")
            found = {"refused": refused, "beside": beside, "back_s": back_s}
    assert refused == (500, "worker_crashed"), found
    assert beside == (200, None), found
    assert "device_lost" in log, log[-_TAIL:]
    return found


def _write_lookup(folder: Path) -> None:
    """Write a TorchScript model that looks numbers up in a table of eight."""
    import torch  # noqa: PLC0415 - takes seconds, the other steps do without

    class Lookup(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(_LOOKED_UP, 2)

        def forward(self, index: torch.Tensor) -> torch.Tensor:
            return self.table(index)[:, 0]

    folder.mkdir()
    traced = torch.jit.trace(Lookup().eval(), torch.tensor([[1], [2]]))
    traced.save(str(folder / "model.pt"))
    tensor = {"name": "index", "datatype": "INT64", "shape": [2, 1], "data": [1, 2]}
    (folder / "example.json").write_text(json.dumps({"inputs": [tensor]}))


def _look_up(url: str, name: str, index: int) -> tuple[int, str | None]:
    tensor = {"name": "index", "datatype": "INT64", "shape": [1, 1], "data": [index]}
    answer = httpx.post(f"{url}/v2/models/{name}/infer", json={"inputs": [tensor]}, timeout=60)
    return answer.status_code, answer.json().get("code")


if __name__ == "__main__":
    sys.exit(main())
