"""Which runtime a file is for."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from salver.artifact.detect import detect_runtime
from salver.artifact.validate.base import validate
from salver.core.errors import CodeRefused, InvalidArtifact, PickleRefused, UnsupportedFormat
from tests import models, torch_models


@pytest.mark.parametrize(
    ("runtime", "path"),
    [
        ("onnx", models.onnx_breast_cancer),
        ("xgboost", lambda: models.xgboost_iris("json")),
        ("xgboost", lambda: models.xgboost_iris("ubj")),
        ("lightgbm", models.lightgbm_wine),
        ("sklearn", models.skops_iris),
        ("torch", torch_models.iris_script),
        ("torch", torch_models.iris_exported),
    ],
)
def test_known_formats(runtime: str, path: "object", tmp_path: Path) -> None:
    """Each format is told by its name and first bytes."""
    assert callable(path)
    source: Path = path()
    (tmp_path / source.name).write_bytes(source.read_bytes())
    trusted = runtime == "torch"
    assert detect_runtime(tmp_path, trust_pickle=False, trust_code=trusted) == runtime


@pytest.mark.parametrize("path", [torch_models.iris_script, torch_models.iris_exported])
def test_pytorch_is_refused_unless_it_is_trusted(path: Callable[[], Path], tmp_path: Path) -> None:
    """Its loaders may run what is in a file; trusting pickles is no trust in code."""
    shutil.copy(path(), tmp_path)
    with pytest.raises(CodeRefused, match="--trust-code"):
        detect_runtime(tmp_path, trust_pickle=True)


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "innocent.json"])
def test_pickles_are_refused_by_name_and_by_content(name: str, tmp_path: Path) -> None:
    """A pickle under any name is refused unless trusted; the reason and the way out are named."""
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(PickleRefused, match="skops"):
        detect_runtime(tmp_path, trust_pickle=False)
    assert detect_runtime(tmp_path, trust_pickle=True) == "sklearn"


def test_unknown_files_are_refused(tmp_path: Path) -> None:
    """The error names what is supported."""
    (tmp_path / "model.bin").write_bytes(b"whatever")
    with pytest.raises(UnsupportedFormat, match="ONNX"):
        detect_runtime(tmp_path, trust_pickle=False)


def test_two_models_in_one_folder_are_refused(tmp_path: Path) -> None:
    """Which of them is meant cannot be guessed."""
    for path in (models.lightgbm_wine(), models.onnx_breast_cancer()):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UnsupportedFormat, match="one model"):
        detect_runtime(tmp_path, trust_pickle=False)


@pytest.mark.parametrize(
    ("method", "runtime"),
    [
        ("def predict", "python"),
        ("async def predict", "python"),
        ("def predict_stream", "python-stream"),
        ("async def predict_stream", "python-stream"),
    ],
)
def test_code_is_told_by_its_name_once_it_is_trusted(
    method: str, runtime: str, tmp_path: Path
) -> None:
    """model.py goes before whatever lies beside it, and its class tells whether it streams."""
    source = f"class Model:\n    {method}(self, inputs): ..."
    (tmp_path / "model.py").write_text(source)
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CodeRefused, match="--trust-code"):
        detect_runtime(tmp_path, trust_pickle=True)
    assert detect_runtime(tmp_path, trust_pickle=False, trust_code=True) == runtime


@pytest.mark.parametrize("source", [b"class Model(:", b"\0", b"\xff\xfe", b"x = " + b"(" * 9000])
def test_code_that_cannot_be_read_is_refused(source: bytes, tmp_path: Path) -> None:
    """It is read, not run, to see which runtime it is for."""
    (tmp_path / "model.py").write_bytes(source)
    with pytest.raises(InvalidArtifact, match=r"model\.py"):
        detect_runtime(tmp_path, trust_pickle=False, trust_code=True)


def test_compiled_code_is_refused(tmp_path: Path) -> None:
    """What would run must be what can be read."""
    (tmp_path / "model.py").write_text("class Model: ...")
    validate("python", tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"")
    with pytest.raises(InvalidArtifact, match="compiled"):
        validate("python", tmp_path)
