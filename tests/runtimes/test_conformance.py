"""Every runtime keeps the same promises, on models of its own."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import onnxruntime
import pytest
import skops.io
import xgboost

from salver.core.errors import (
    CallerError,
    InvalidTensor,
    LoadFailed,
    MissingInput,
    ModelFailed,
    UnknownInput,
    UnknownOutput,
)
from salver.core.signature import Column, Signature, TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import BatchRuntime, RuntimeOptions
from salver.runtimes.code import Code
from salver.runtimes.table import BATCH_RUNTIMES, create_batch
from salver.runtimes.torch import Exported, Script
from tests import models, torch_models

Direct = Callable[[Path, AnyArray], dict[str, AnyArray]]


class Sample(NamedTuple):
    """A model, its input, and how to ask its library itself."""

    runtime: str
    path: Callable[[], Path]
    rows: Callable[[], AnyArray]
    signature: Signature | None
    direct: Direct


def floats(name: str, dtype: type[np.generic]) -> Callable[[], AnyArray]:
    """Return rows of a data set as one type."""
    return lambda: models.rows(name).astype(dtype)


def ask_onnx(path: Path, rows: AnyArray) -> dict[str, AnyArray]:
    """ONNX Runtime itself."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {session.get_inputs()[0].name: rows}
    return dict(zip(names, session.run(names, feed), strict=True))


def ask_xgboost(path: Path, rows: AnyArray) -> dict[str, AnyArray]:
    """XGBoost itself, through a DMatrix."""
    booster = xgboost.Booster(model_file=str(path))
    matrix = xgboost.DMatrix(rows, feature_names=booster.feature_names)
    return {"prediction": booster.predict(matrix)}


def ask_lightgbm(path: Path, rows: AnyArray) -> dict[str, AnyArray]:
    """LightGBM itself."""
    return {"prediction": np.asarray(lightgbm.Booster(model_file=str(path)).predict(rows))}


def ask_sklearn(path: Path, rows: AnyArray) -> dict[str, AnyArray]:
    """scikit-learn itself."""
    model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    if hasattr(model, "predict_proba"):
        return {"label": model.predict(rows), "probabilities": model.predict_proba(rows)}
    return {"prediction": model.predict(rows)}


def ask_code(path: Path, rows: AnyArray) -> dict[str, AnyArray]:
    """Call the code itself, as its author would."""
    space: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    model = space["Model"]()
    model.load(path.parent)
    answer: dict[str, AnyArray] = model.postprocess(model.predict({"input": rows}))
    return answer


def tabular(width: int) -> Signature:
    """Return the signature that a push derives from an example."""
    return Signature((TensorSpec("input", "FP64", (-1, width), (Column("a"),) * width),), ())


SAMPLES: dict[str, Sample] = {
    "onnx:cancer": Sample(
        "onnx", models.onnx_breast_cancer, floats("breast_cancer", np.float32), None, ask_onnx
    ),
    "onnx:identity": Sample(
        "onnx", lambda: models.onnx_identity("FP32", 2), floats("iris", np.float32), None, ask_onnx
    ),
    "xgboost:json": Sample(
        "xgboost", lambda: models.xgboost_iris("json"), floats("iris", np.float32), None,
        ask_xgboost,
    ),
    "xgboost:ubj": Sample(
        "xgboost", lambda: models.xgboost_iris("ubj"), floats("iris", np.float32), None,
        ask_xgboost,
    ),
    "lightgbm:wine": Sample(
        "lightgbm", models.lightgbm_wine, floats("wine", np.float64), None, ask_lightgbm
    ),
    "sklearn:forest": Sample(
        "sklearn", models.skops_iris, floats("iris", np.float64), tabular(4), ask_sklearn
    ),
    "python:centroids": Sample(
        "python", models.python_iris, floats("iris", np.float64), tabular(4), ask_code
    ),
    "torch:script": Sample(
        "torch", torch_models.iris_script, floats("iris", np.float32),
        Signature((TensorSpec("x", "FP32", (-1, 4)),), ()), torch_models.ask,
    ),
    "torch:exported": Sample(
        "torch", torch_models.iris_exported, floats("iris", np.float32), None, torch_models.ask
    ),
    "sklearn:pipeline": Sample(
        "sklearn", models.skops_diabetes, floats("diabetes", np.float64), tabular(10), ask_sklearn
    ),
}  # fmt: skip


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> Sample:
    """Give each sample in turn."""
    return SAMPLES[request.param]


def loaded(sample: Sample, folder: Path, threads: int = 1) -> BatchRuntime:
    """Return the sample's model, loaded from a folder of its own."""
    (folder / sample.path().name).write_bytes(sample.path().read_bytes())
    runtime = create_batch(sample.runtime)
    runtime.load(folder, sample.signature, RuntimeOptions(threads, trust_code=True))
    return runtime


def name_of(runtime: BatchRuntime) -> str:
    """Return the name of the only input."""
    signature = runtime.signature()
    assert signature is not None
    return signature.inputs[0].name


def test_every_runtime_has_a_sample() -> None:
    """A runtime without a sample would not be checked."""
    assert {sample.runtime for sample in SAMPLES.values()} == set(BATCH_RUNTIMES)


def test_answers_as_the_library_itself(sample: Sample, tmp_path: Path) -> None:
    """The same rows give what the library gives when called directly."""
    runtime, rows = loaded(sample, tmp_path), sample.rows()[:50]
    answer = runtime.run({name_of(runtime): rows}, None)
    expected = sample.direct(sample.path(), rows)
    assert set(answer) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(
            np.asarray(answer[name], float), np.asarray(array, float), rtol=1e-5
        )


def test_a_batch_is_its_single_rows(sample: Sample, tmp_path: Path) -> None:
    """n rows together give what each gives alone."""
    runtime, rows = loaded(sample, tmp_path), sample.rows()[:16]
    name = name_of(runtime)
    together = runtime.run({name: rows}, None)
    for index in range(len(rows)):
        alone = runtime.run({name: rows[index : index + 1]}, None)
        for output, array in alone.items():
            np.testing.assert_allclose(array[0], together[output][index], rtol=1e-5)


def test_wrong_shapes_and_datatypes_are_refused(sample: Sample, tmp_path: Path) -> None:
    """Too few columns, too many dimensions, another datatype: InvalidTensor, and it goes on."""
    runtime, rows = loaded(sample, tmp_path), sample.rows()[:2]
    name = name_of(runtime)
    signature = runtime.signature()
    assert signature is not None
    wrong = [rows.astype(np.int32), rows.reshape(1, *rows.shape), rows[0]]
    if signature.inputs[0].shape[1] != -1:
        wrong += [rows[:, :-1], np.concatenate([rows, rows], axis=1)]
    for array in wrong:
        with pytest.raises(InvalidTensor):
            runtime.run({name: array}, None)
    assert runtime.run({name: rows}, None)


def test_unknown_and_missing_names_are_refused(sample: Sample, tmp_path: Path) -> None:
    """Names that the model does not have are told apart from names it lacks."""
    runtime, rows = loaded(sample, tmp_path), sample.rows()[:2]
    with pytest.raises(UnknownInput):
        runtime.run({name_of(runtime): rows, "nonsense": rows}, None)
    with pytest.raises(MissingInput):
        runtime.run({}, None)
    with pytest.raises(UnknownOutput):
        runtime.run({name_of(runtime): rows}, ("nonsense",))


def test_only_the_wanted_outputs(sample: Sample, tmp_path: Path) -> None:
    """Asking for one output gives that one."""
    runtime, rows = loaded(sample, tmp_path), sample.rows()[:2]
    for output in runtime.run({name_of(runtime): rows}, None):
        assert list(runtime.run({name_of(runtime): rows}, (output,))) == [output]


def test_read_only_inputs(sample: Sample, tmp_path: Path) -> None:
    """Arrays over received bytes cannot be written to, and need not be."""
    runtime = loaded(sample, tmp_path)
    rows = np.ascontiguousarray(sample.rows()[:3])
    frozen = np.frombuffer(rows.tobytes(), rows.dtype).reshape(rows.shape)
    assert runtime.run({name_of(runtime): frozen}, None)


def test_an_empty_batch(sample: Sample, tmp_path: Path) -> None:
    """No rows give no rows, or a coded refusal; never a crash."""
    runtime = loaded(sample, tmp_path)
    try:
        outputs = runtime.run({name_of(runtime): sample.rows()[:0]}, None)
    except (CallerError, ModelFailed):
        return
    assert all(array.shape[0] == 0 for array in outputs.values())


def test_several_threads_give_the_same(sample: Sample, tmp_path: Path) -> None:
    """The number of threads does not change the answer."""
    rows = sample.rows()[:32]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first, second = loaded(sample, one, 1), loaded(sample, two, 2)
    answers = [runtime.run({name_of(runtime): rows}, None) for runtime in (first, second)]
    for name, array in answers[0].items():
        np.testing.assert_allclose(array, answers[1][name], rtol=1e-5)


def test_unloading_frees(sample: Sample, tmp_path: Path) -> None:
    """After unload nothing of the model is reachable, and running is refused."""
    runtime, rows = loaded(sample, tmp_path), sample.rows()[:2]
    name = name_of(runtime)
    held = [
        weakref.ref(value)
        for value in vars(runtime).values()
        if type(value).__module__.split(".")[0] in ("onnxruntime", "xgboost", "lightgbm", "sklearn")
        or isinstance(value, Code | Script | Exported)
    ]
    assert held
    runtime.unload()
    gc.collect()
    assert all(reference() is None for reference in held)
    with pytest.raises(ModelFailed):
        runtime.run({name: rows}, None)
    runtime.unload()


def test_garbage_is_a_load_failure(sample: Sample, tmp_path: Path) -> None:
    """A file that is no model is LoadFailed, as is a folder without one."""
    runtime = create_batch(sample.runtime)
    with pytest.raises(LoadFailed):
        runtime.load(tmp_path, sample.signature, RuntimeOptions(trust_code=True))
    (tmp_path / sample.path().name).write_bytes(b"garbage")
    with pytest.raises(LoadFailed):
        runtime.load(tmp_path, sample.signature, RuntimeOptions(trust_code=True))
