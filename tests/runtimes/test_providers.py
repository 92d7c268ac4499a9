"""What ONNX Runtime computes with."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from salver.core.errors import LoadFailed, ResourceUnavailable
from salver.core.signature import Signature
from salver.runtimes import cuda
from salver.runtimes.base import RuntimeOptions, provider_of
from salver.runtimes.onnx import OnnxRuntime, first_gpu_use
from salver.runtimes.providers import to_try
from tests import models

CPU, CUDA, TENSORRT = (
    "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider",
)  # fmt: skip
THERE = onnxruntime.get_available_providers()


def test_auto_takes_cuda_where_it_works_and_tensorrt_only_when_asked() -> None:
    """What one provider cannot compute falls to the next; auto goes on to the CPU alone."""
    everything = [TENSORRT, CUDA, CPU]
    assert to_try("auto", everything) == [[CUDA, CPU], [CPU]]
    assert to_try("auto", [CPU]) == [[CPU]]
    assert to_try("tensorrt", everything) == [[TENSORRT, CUDA, CPU]]
    assert to_try("tensorrt", [TENSORRT, CPU]) == [[TENSORRT, CPU]]
    assert to_try("cuda", everything) == [[CUDA, CPU]]
    assert to_try("cpu", everything) == [[CPU]]


@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_a_graph_runs_on_what_is_there(asked: str) -> None:
    """It answers, and says what it computes with."""
    runtime = OnnxRuntime()
    assert provider_of(runtime) == ""
    folder = models.onnx_identity("FP32", 2).parent
    runtime.load(folder, None, RuntimeOptions(provider=asked))
    assert provider_of(runtime) == ("cuda" if asked == "auto" and CUDA in THERE else "cpu")
    (output,) = runtime.run({"x": np.ones((1, 2), np.float32)}, None).values()
    assert output.tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize(("asked", "name"), [("cuda", CUDA), ("tensorrt", TENSORRT)])
def test_what_is_not_there_is_refused(asked: str, name: str) -> None:
    """The error names what is there; the CPU is no substitute for what was asked for."""
    if name in THERE:
        pytest.skip("it is there")
    folder = models.onnx_identity("FP32", 2).parent
    with pytest.raises(ResourceUnavailable, match="available here: cpu"):
        OnnxRuntime().load(folder, None, RuntimeOptions(provider=asked))


def test_a_device_that_is_missing_is_no_reason_to_compute_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With CUDA in the library but no device, asking for it is refused, and auto takes the CPU."""
    if CUDA in THERE:
        pytest.skip("it may work here")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    folder = models.onnx_identity("FP32", 2).parent
    with pytest.raises(ResourceUnavailable, match="available here: cpu"):
        OnnxRuntime().load(folder, None, RuntimeOptions(provider="cuda"))
    runtime = OnnxRuntime()
    runtime.load(folder, None, RuntimeOptions(provider="auto"))
    assert provider_of(runtime) == "cpu"
    (tmp_path / "m.onnx").write_bytes(b"\x00damaged")
    with pytest.raises(LoadFailed):
        OnnxRuntime().load(tmp_path, Signature((), ()), RuntimeOptions(provider="cuda"))


def test_cudas_libraries_are_found_in_python_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are loaded before a session looks for them; the processor needs none of them."""
    asked: list[str] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: asked.append("CUDA"))
    folder = models.onnx_identity("FP32", 2).parent
    OnnxRuntime().load(folder, None, RuntimeOptions(provider="cpu"))
    assert not asked
    OnnxRuntime().load(folder, None, RuntimeOptions(provider="auto"))
    assert asked


def test_a_damaged_file_is_what_it_is(tmp_path: Path) -> None:
    """It is the file's fault, not the provider's."""
    (tmp_path / "m.onnx").write_bytes(b"\x00damaged")
    for asked in ("auto", "cpu"):
        with pytest.raises(LoadFailed, match=r"refused m\.onnx"):
            OnnxRuntime().load(tmp_path, Signature((), ()), RuntimeOptions(provider=asked))


def test_a_process_without_a_gpu_has_lost_none() -> None:
    """A run that fails there is the model's fault."""
    if CUDA in THERE:
        pytest.skip("there is one")
    assert cuda.failure() == ""
    first_gpu_use()
