"""Steps around real models of every runtime: the same answers, all rows at once or one by one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from salver.core.errors import InvalidSteps, InvalidTensor, ModelFailed, UnknownOutput
from salver.core.rows import infer_inputs
from salver.core.signature import Column, Signature, TensorSpec
from salver.core.steps import Steps, read_steps
from salver.runtimes.base import Batch, RuntimeOptions
from salver.runtimes.stepped import Around, SteppedRuntime, SteppedStreamRuntime
from salver.runtimes.table import create_batch, create_stream
from tests import models
from tests.runtimes.code_models import write
from tests.runtimes.test_conformance import SAMPLES
from tests.runtimes.test_python_stream import COUNT, Collector, number

OPTIONS = RuntimeOptions(trust_code=True)


def stepped(
    runtime: str,
    folder: Path,
    steps: dict[str, Any],
    signature: Signature | None = None,
    *,
    row_by_row: bool = False,
) -> SteppedRuntime:
    """Return a model in a folder, loaded with steps around it."""
    made = SteppedRuntime(create_batch(runtime), read_steps(steps), row_by_row=row_by_row)
    made.load(folder, signature, OPTIONS)
    return made


def folder_of(path: Path, folder: Path) -> Path:
    """Put a model file into a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("name", SAMPLES)
def test_every_runtime_takes_steps(name: str, tmp_path: Path) -> None:
    """Columns put in order before it, and the greatest value after it, whatever the runtime."""
    sample = SAMPLES[name]
    rows = sample.rows()[:20]
    folder = folder_of(sample.path(), tmp_path / "m")
    plain = create_batch(sample.runtime)
    plain.load(folder, sample.signature, OPTIONS)
    known = plain.signature()
    assert known is not None
    (inner,) = known.inputs
    expected = plain.run({inner.name: rows}, None)
    output = next(key for key, array in expected.items() if array.dtype.kind == "f")
    width = rows.shape[1]
    mixed = np.ascontiguousarray(rows[:, ::-1])
    outer = TensorSpec(
        "mixed", inner.datatype, (-1, width), tuple(Column(f"c{at}") for at in range(width))
    )
    order = [f"c{at}" for at in reversed(range(width))]
    steps: dict[str, Any] = {
        "before": [{"step": "select", "columns": order, "into": inner.name}],
        "after": [{"step": "cast", "to": {output: "FP64"}}],
    }
    for row_by_row in (False, True):
        runtime = stepped(
            sample.runtime, folder, steps, Signature((outer,), ()), row_by_row=row_by_row
        )
        answer = runtime.run({"mixed": mixed}, None)
        assert set(answer) == set(expected)
        for key, array in expected.items():
            np.testing.assert_allclose(answer[key], array, rtol=1e-5)
        assert answer[output].dtype == np.float64
        assert list(runtime.run({"mixed": mixed}, (output,))) == [output]
        with pytest.raises(UnknownOutput):
            runtime.run({"mixed": mixed}, ("nonsense",))
        with pytest.raises(InvalidTensor):
            runtime.run({"mixed": mixed[:, 1:]}, None)
        runtime.unload()
        with pytest.raises(ModelFailed):
            runtime.run({"mixed": mixed}, None)


@pytest.mark.parametrize(("kind", "runtime"), [("onnx", "onnx"), ("skops", "sklearn")])
def test_steps_do_what_the_authors_pipeline_did(kind: str, runtime: str, tmp_path: Path) -> None:
    """Missing, scaled and one-hot columns of real cars give the pipeline's own consumption."""
    specs, tensors = infer_inputs(models.cars())
    batch = {tensor.name: tensor.array() for tensor in tensors}
    folder = folder_of(models.car_model(kind), tmp_path / "m")
    expected = models.car_pipeline().predict(pd.DataFrame(models.cars()))
    for row_by_row in (False, True):
        made = stepped(
            runtime, folder, models.car_steps(), Signature(specs, ()), row_by_row=row_by_row
        )
        (answer,) = made.run(batch, None).values()
        np.testing.assert_allclose(np.ravel(answer), expected, rtol=1e-4)


def test_sentences_go_into_a_published_model(tmp_path: Path) -> None:
    """Text in, vectors out; sentences of the same meaning are nearest to each other."""
    folder = models.minilm(tmp_path / "m")
    outputs = {"types": "token_type_ids"}
    steps = {"before": [{"step": "tokenize", "column": "text", "outputs": outputs}]}
    signature = Signature((TensorSpec("text", "BYTES", (-1,)),), ())
    runtime = stepped("onnx", folder, steps, signature)
    texts = ["A cat sits on the mat.", "Interest rates rose.", "The kitten is on the rug."]
    batch: Batch = {"text": np.array([text.encode() for text in texts], dtype=object)}
    hidden = next(iter(runtime.run(batch, None).values()))
    assert hidden.shape[::2] == (3, 384)
    alone = stepped("onnx", folder, steps, signature, row_by_row=False)
    vectors = []
    for row in range(3):
        one = next(iter(alone.run({"text": batch["text"][row : row + 1]}, None).values()))
        vectors.append(one[0].mean(axis=0))
    likeness = np.corrcoef(vectors)
    assert likeness[0, 2] > max(likeness[0, 1], likeness[1, 2])


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        (
            [{"step": "select", "columns": ["x"], "into": "X"}],
            "'X' as FP64.*takes FP32; add a cast",
        ),
        ([{"step": "cast", "to": {"x": "FP32"}}], "'x', which the model does not take; it takes X"),
        (
            [{"step": "select", "columns": ["x[0]"], "into": "X", "datatype": "FP32"}],
            r"shape \[-1, 1\], the model takes \[-1, 30\]",
        ),
    ],
)
def test_steps_must_end_with_what_the_model_takes(
    before: list[dict[str, Any]], cause: str, tmp_path: Path
) -> None:
    """Name, datatype and width are compared with the model's own when it is loaded."""
    folder = folder_of(models.onnx_breast_cancer(), tmp_path / "m")
    signature = Signature((TensorSpec("x", "FP64", (-1, 30)),), ())
    with pytest.raises(InvalidSteps, match=cause):
        stepped("onnx", folder, {"before": before}, signature)


def test_rows_that_cannot_be_joined_are_the_models_fault(tmp_path: Path) -> None:
    """One by one, answers of different shapes are told apart from a crash."""
    source = """
    import numpy as np
    class Model:
        def predict(self, inputs):
            return {"y": np.zeros((1, int(inputs["x"][0, 0])))}
    """
    folder = write(tmp_path, source)
    steps = {"after": [{"step": "cast", "to": {"y": "FP32"}}]}
    signature = Signature((TensorSpec("x", "FP64", (-1, 1)),), ())
    runtime = stepped("python", folder, steps, signature, row_by_row=True)
    with pytest.raises(ModelFailed, match="differs in shape"):
        runtime.run({"x": np.array([[1.0], [2.0]])}, None)


def test_steps_around_a_stream(tmp_path: Path) -> None:
    """Inputs pass once, each chunk by itself; a step that fails ends the stream with its error."""
    folder = write(tmp_path, COUNT)
    inputs = (TensorSpec("count", "FP64", (-1, 1)),)
    before = [{"step": "select", "columns": ["count"], "into": "x"}]
    scale = {"step": "scale", "columns": {"y": {"subtract": 1, "divide": 2}}}
    cast = {"step": "cast", "to": {"y": "UINT8"}}
    for after, chunks, error in (
        ([scale], [-0.5, 0.0, 0.5], ""),
        ([scale, cast], [0.0, 0.0, 0.0], ""),
        ([{"step": "scale", "columns": {"y": {"divide": -0.001}}}, cast], [0.0], "beyond UINT8"),
    ):
        runtime = SteppedStreamRuntime(
            create_stream("python-stream"), Steps(inputs, tuple(before), tuple(after))
        )
        runtime.load(folder, None, OPTIONS)
        runtime.submit({"count": number(3)["x"]}, sink := Collector())
        assert sink.waited().chunks == chunks
        assert error in (sink.error.message if sink.error is not None else "")
        assert bool(error) is (sink.error is not None)
        runtime.unload()


class Interrupted(str):
    """A name during whose first comparison something else happens, as in another thread."""

    __slots__ = ("meanwhile",)
    meanwhile: Callable[[], object] | None

    def __eq__(self, other: object) -> bool:
        """Compare as text."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_streams_of_different_shapes_share_steps() -> None:
    """A chunk takes the steps fitted to its own kind, whatever other threads bring meanwhile."""
    around = Around(Steps(after=({"step": "labels", "tensor": "p", "names": ["x", "y"]},)))
    scores, marks = np.array([[0.9, 0.1]], np.float32), np.array([[1, 0]], np.int64)
    assert around.after({"p": scores})["label"].shape == (1,)
    assert around.after({"p": marks})["label"].shape == (1, 2)
    name = Interrupted("p")
    name.meanwhile = lambda: around.after({"p": scores})
    assert around.after({name: marks})["label"].shape == (1, 2)
    assert name.meanwhile is None
