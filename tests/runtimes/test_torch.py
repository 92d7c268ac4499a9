"""What is particular to PyTorch: names, sizes, devices, threads, and processes that fork."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from salver.core.errors import (
    InvalidTensor,
    LoadFailed,
    MemoryLimitExceeded,
    ModelFailed,
    ResourceUnavailable,
)
from salver.core.hosting import AUTO, CPU, CUDA, TENSORRT
from salver.core.signature import Signature, TensorSpec
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.torch import TorchRuntime
from tests import torch_models
from tests.torch_models import export, script

ROOT = Path(__file__).parents[2]
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


class Pair(NamedTuple):
    """What a model may answer."""

    low: torch.Tensor
    high: torch.Tensor


class Named(torch.nn.Module):
    """Answers with names."""

    def forward(self, x: torch.Tensor) -> Pair:
        """Return the extremes of each row."""
        return Pair(x.min(1)[0], x.max(1)[0])


class Several(torch.nn.Module):
    """Takes two inputs and answers two tensors."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return difference and sum."""
        return left - right, left + right


class Counting(torch.nn.Module):
    """Writes into its input and answers with its own memory."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))
        self.total: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of all rows ever seen."""
        x.mul_(1)
        self.total.add_(x.sum(0))
        x.zero_()
        return self.total


class Half(torch.nn.Module):
    """Computes in bfloat16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return three times the input."""
        return x * 3


class Greedy(torch.nn.Module):
    """Wants a petabyte for a thousand rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return zeros."""
        rows = x.shape[0]
        size = rows * rows * rows * rows * rows
        return torch.zeros(size).sum() + x


class Numbers(torch.nn.Module):
    """Takes a list."""

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        """Return the first."""
        return x[0]


def loaded(
    folder: Path, signature: Signature | None = None, provider: str = CPU, threads: int = 1
) -> TorchRuntime:
    """Return what lies in a folder, loaded."""
    runtime = TorchRuntime()
    runtime.load(folder, signature, RuntimeOptions(threads, provider=provider))
    return runtime


def fp32(*names: str) -> Signature:
    """Return a signature of inputs of four columns."""
    return Signature(tuple(TensorSpec(name, "FP32", (-1, 4)) for name in names), ())


def test_answers_get_the_names_they_have(tmp_path: Path) -> None:
    """A named tuple gives its fields, a tuple numbers, and one tensor is the output."""
    script(Named(), tmp_path / "model.pt")
    answer = loaded(tmp_path, fp32("x")).run({"x": ROWS}, None)
    assert answer["low"].tolist() == [0, 4, 8]
    assert answer["high"].tolist() == [3, 7, 11]
    script(Several(), tmp_path / "model.pt")
    answer = loaded(tmp_path, fp32("left", "right")).run({"right": ROWS, "left": 2 * ROWS}, None)
    assert answer["output_0"].tolist() == ROWS.tolist()
    assert answer["output_1"].tolist() == (3 * ROWS).tolist()


@pytest.mark.parametrize("exported", [False, True])
def test_signature_json_names_inputs_and_outputs(exported: bool, tmp_path: Path) -> None:
    """Names that the model does not know are taken in order; too few are refused."""
    if exported:
        export(Several(), tmp_path / "model.pt2", torch.ones(2, 4), torch.ones(2, 4))
    else:
        script(Several(), tmp_path / "model.pt")
    spec = '{"name": "%s", "datatype": "FP32", "shape": [-1, 4]}'
    text = '{"inputs": [%s, %s], "outputs": [%s, %s]}'
    (tmp_path / "signature.json").write_text(text % tuple(spec % name for name in "abcd"))
    answer = loaded(tmp_path).run({"a": 2 * ROWS, "b": ROWS}, None)
    assert answer["c"].tolist() == ROWS.tolist()
    assert answer["d"].tolist() == (3 * ROWS).tolist()
    assert list(loaded(tmp_path).run({"a": ROWS, "b": ROWS}, ("d",))) == ["d"]
    (tmp_path / "signature.json").write_text('{"inputs": [%s], "outputs": []}' % (spec % "a"))
    with pytest.raises(InvalidTensor, match="left, right"):
        loaded(tmp_path)


def test_sizes_that_the_program_was_not_exported_for(tmp_path: Path) -> None:
    """Out of the range, or unlike each other where they were alike: InvalidTensor."""
    rows = torch.export.Dim("rows", min=2, max=8)
    sizes = ({0: rows}, {0: rows})
    export(Several(), tmp_path / "model.pt2", torch.ones(3, 4), torch.ones(3, 4), sizes=sizes)
    runtime = loaded(tmp_path)
    signature = runtime.signature()
    assert signature is not None
    assert [(spec.name, spec.shape) for spec in signature.inputs] == [
        ("left", (-1, 4)), ("right", (-1, 4)),
    ]  # fmt: skip
    with pytest.raises(InvalidTensor, match="2 to 8"):
        runtime.run(
            {"left": np.ones((9, 4), np.float32), "right": np.ones((9, 4), np.float32)}, None
        )
    with pytest.raises(InvalidTensor, match="another input"):
        runtime.run({"left": ROWS, "right": ROWS[:2]}, None)
    assert runtime.run({"left": ROWS, "right": ROWS}, None)


@pytest.mark.parametrize("exported", [False, True])
def test_what_a_model_writes_stays_its_own(exported: bool, tmp_path: Path) -> None:
    """Neither the caller's arrays nor earlier answers change."""
    if exported:
        export(Counting(), tmp_path / "model.pt2", torch.ones(2, 4))
    else:
        script(Counting(), tmp_path / "model.pt")
    runtime, given = loaded(tmp_path, fp32("x")), ROWS.copy()
    first = runtime.run({"x": given}, None)["output"]
    kept = first.copy()
    runtime.run({"x": given}, None)
    assert given.tolist() == ROWS.tolist()
    assert first.tolist() == kept.tolist()


def test_bfloat16_travels_as_fp32(tmp_path: Path) -> None:
    """numpy has no bfloat16, so callers send and get the next wider number."""
    export(Half(), tmp_path / "model.pt2", torch.ones(2, 4, dtype=torch.bfloat16))
    runtime = loaded(tmp_path)
    signature = runtime.signature()
    assert signature is not None
    assert signature.inputs[0].datatype == "FP32"
    answer = runtime.run({"x": ROWS}, None)["output"]
    assert answer.dtype == np.float32
    assert answer.tolist() == (3 * ROWS).tolist()


def test_fractions_are_cast_to_what_the_weights_are(tmp_path: Path) -> None:
    """Rows of a JSON example are FP64; TorchScript does not tell that its weights are not."""
    script(torch_models.iris(), tmp_path / "model.pt")
    runtime = loaded(tmp_path)
    assert runtime.signature() is None
    wide = runtime.run({"input": ROWS.astype(np.float64)}, None)
    narrow = runtime.run({"x": ROWS}, None)
    np.testing.assert_array_equal(wide["probabilities"], narrow["probabilities"])


def test_inputs_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    """The error names the argument and the way out."""
    script(Numbers(), tmp_path / "model.pt")
    with pytest.raises(LoadFailed, match="x: List"):
        loaded(tmp_path)


def test_too_little_memory_has_a_code_and_the_model_serves_on(tmp_path: Path) -> None:
    """A batch that does not fit is refused; the next is answered."""
    script(Greedy(), tmp_path / "model.pt")
    runtime = loaded(tmp_path, fp32("x"))
    with pytest.raises(MemoryLimitExceeded, match="fewer rows"):
        runtime.run({"x": np.ones((1000, 4), np.float32)}, None)
    assert runtime.run({"x": ROWS}, None)["output"].tolist() == ROWS.tolist()


def test_what_an_operator_says_is_told(tmp_path: Path) -> None:
    """The cause is told without the program's trace."""
    script(torch_models.iris(), tmp_path / "model.pt")
    with pytest.raises(ModelFailed, match="shapes cannot be multiplied") as caught:
        loaded(tmp_path).run({"x": ROWS[:, :3]}, None)
    assert "Traceback" not in caught.value.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what is refused without a GPU")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """What was asked for is had or refused; auto takes what there is."""
    script(torch_models.iris(), tmp_path / "model.pt")
    for provider in (CUDA, TENSORRT):
        with pytest.raises(ResourceUnavailable, match="available here: cpu"):
            loaded(tmp_path, provider=provider)
    assert loaded(tmp_path, provider=AUTO).provider == CPU


def test_threads_are_those_that_were_granted(tmp_path: Path) -> None:
    """Also after another model of the process had more."""
    script(torch_models.iris(), tmp_path / "model.pt")
    one, two = loaded(tmp_path, threads=1), loaded(tmp_path, threads=2)
    for runtime, threads in ((one, 1), (two, 2), (one, 1)):
        runtime.run({"x": ROWS}, None)
        assert torch.get_num_threads() == threads
    assert torch.get_num_interop_threads() == 1


FORKS = """
import os, sys
from pathlib import Path
import numpy as np
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.table import create_batch, prepare_batch
prepare_batch("torch")
import torch
assert len(os.listdir("/proc/self/task")) == 1, "a thread runs"
assert not torch.cuda.is_initialized()
for folder in sys.argv[1:]:
    if not os.fork():
        runtime = create_batch("torch")
        runtime.load(Path(folder), None, RuntimeOptions(threads=2))
        runtime.run({"x": np.ones((64, 4), np.float32)}, None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""


def test_a_process_with_torch_can_fork(tmp_path: Path) -> None:
    """Importing it starts no thread and no GPU, and a model runs in the copy."""
    for name in ("script", "exported"):
        (tmp_path / name).mkdir()
    script(torch_models.iris(), tmp_path / "script" / "model.pt")
    export(torch_models.iris(), tmp_path / "exported" / "model.pt2", torch.ones(2, 4))
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path / "script"), str(tmp_path / "exported")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
