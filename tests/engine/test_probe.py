"""A pushed model is examined in a process that may die of it."""

import asyncio
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import torch
from onnx import TensorProto, helper

from salver.artifact.golden import parse_golden
from salver.core.errors import (
    CodeRefused,
    GoldenMismatch,
    InvalidArtifact,
    InvalidExample,
    PickleRefused,
    SalverError,
)
from salver.core.settings import EngineSettings
from salver.core.signature import TensorSpec
from salver.core.steps import Steps
from salver.engine import probe_child
from salver.engine.probe import ProbeReport, ProbeRequest, probe
from tests import models, torch_models


def examine(
    folder: Path, *sources: Path, settings: EngineSettings | None = None, **more: object
) -> ProbeReport:
    """Examine files put into a folder."""
    folder.mkdir(exist_ok=True)
    for source in sources:
        (folder / source.name).write_bytes(source.read_bytes())
    request = ProbeRequest(str(folder), **more)  # type: ignore[arg-type]
    return asyncio.run(probe(request, settings or EngineSettings()))


def rows_of(name: str, count: int = 3) -> bytes:
    """Return rows of a data set as JSON."""
    return json.dumps(models.rows(name)[:count].tolist()).encode()


def test_the_file_tells_its_signature(tmp_path: Path) -> None:
    """ONNX, XGBoost and LightGBM need no example; features are columns of one tensor."""
    report = examine(tmp_path / "a", models.xgboost_iris("json"))
    (spec,) = report.signature.inputs
    assert (spec.datatype, spec.shape) == ("FP32", (-1, 4))
    assert [column.name for column in spec.columns] == models.columns("iris")
    assert report.signature.outputs[0].shape == (-1, 3)
    assert report.max_batch_size > 1
    assert "no example" in report.warnings[0]
    report = examine(tmp_path / "b", models.lightgbm_wine())
    assert report.signature.inputs[0].shape == (-1, 13)
    report = examine(tmp_path / "c", models.onnx_breast_cancer())
    assert {spec.name for spec in report.signature.outputs} == {"label", "probabilities"}
    assert report.frameworks["onnxruntime"]


def test_scikit_learn_needs_an_example(tmp_path: Path) -> None:
    """Without an example the inputs are unknown; with one the columns are learnt from it."""
    with pytest.raises(InvalidExample, match="--example"):
        examine(tmp_path / "a", models.skops_iris())
    records = [
        dict(zip(models.columns("iris"), row, strict=True))
        for row in models.rows("iris")[:2].tolist()
    ]
    report = examine(tmp_path / "b", models.skops_iris(), example=json.dumps(records).encode())
    assert [c.name for c in report.signature.inputs[0].columns] == models.columns("iris")
    assert [spec.name for spec in report.signature.outputs] == ["label", "probabilities"]


def test_golden_examples_are_recorded_and_met(tmp_path: Path) -> None:
    """The example becomes golden, the model meets it, and another answer is refused."""
    source = models.xgboost_iris("json")
    golden = examine(tmp_path / "a", source, example=rows_of("iris")).golden
    assert len(parse_golden(golden)) == 1
    examine(tmp_path / "b", source, golden=golden)
    changed = json.loads(golden)
    changed["outputs"][0]["data"][0] += 0.5
    with pytest.raises(GoldenMismatch, match="differs at"):
        examine(tmp_path / "c", source, golden=json.dumps(changed).encode())


ANSWERS = """
import numpy as np

class Model:
    def predict(self, inputs):
        rows = len(inputs["input"])
        return {{"y": {answer}}}
"""


def answering(path: Path, answer: str) -> Path:
    """Write a model that answers with this expression."""
    path.write_text(ANSWERS.format(answer=answer))
    return path


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("np.random.default_rng().random(rows)", "output 'y' differs at [0]"),
        ("np.array([b'\\xff'] * rows, dtype=object)", "b'\\xff' instead of"),
    ],
)
def test_an_answer_that_could_not_be_met_is_no_golden_example(
    tmp_path: Path, answer: str, cause: str
) -> None:
    """Random numbers and bytes that are no text are pushed without one, and the warning says so."""
    model = answering(tmp_path / "model.py", answer)
    report = examine(tmp_path / "a", model, example=b"[[1.0], [2.0]]", trust_code=True)
    assert report.golden == b""
    assert [spec.name for spec in report.signature.outputs] == ["y"]
    assert report.warnings[-1].startswith("no golden example was recorded: asked once more, ")
    assert cause in report.warnings[-1]


@pytest.mark.parametrize(
    "answer", ["2.0 * inputs['input']", "np.array([b'\\xc3\\xa4'] * rows, dtype=object)"]
)
def test_an_answer_that_comes_again_is_a_golden_example(tmp_path: Path, answer: str) -> None:
    """Numbers and text are recorded without a word, and are met."""
    model = answering(tmp_path / "model.py", answer)
    report = examine(tmp_path / "a", model, example=b"[[1.0], [2.0]]", trust_code=True)
    assert len(parse_golden(report.golden)) == 1
    assert report.warnings == ()
    examine(tmp_path / "b", model, golden=report.golden, trust_code=True)


def test_a_golden_example_that_nobody_would_read_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One as large as may be read is recorded; a byte more, and the push goes on and says so."""
    source = models.xgboost_iris("json")
    request = ProbeRequest(str(tmp_path), example=rows_of("iris"))
    recorded = examine(tmp_path, source, example=request.example).golden
    monkeypatch.setattr(probe_child, "MAX_GOLDEN_BYTES", len(recorded))
    report = probe_child.examine(request)
    assert (report.golden, report.warnings) == (recorded, ())
    monkeypatch.setattr(probe_child, "MAX_GOLDEN_BYTES", len(recorded) - 1)
    report = probe_child.examine(request)
    cause = f"no golden example was recorded: it takes over {len(recorded) - 1} bytes"
    assert (report.golden, report.warnings) == (b"", (cause,))


def batch_dependent(path: Path) -> Path:
    """Write a model whose answer for a row depends on the other rows."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "m"], ["y"]),
        ],
        "centred",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def test_models_that_depend_on_their_batch_are_not_batched(tmp_path: Path) -> None:
    """Where a batch is not its single rows, batching is off and the reason is told."""
    report = examine(
        tmp_path / "a", batch_dependent(tmp_path / "m.onnx"), example=b"[[1, 2], [3, 5]]"
    )
    assert report.max_batch_size == 1
    assert "not the row alone" in report.batching_note


def test_a_fixed_first_dimension_switches_batching_off(tmp_path: Path) -> None:
    """A graph for exactly two rows is served as it is."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "fixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "m.onnx")
    report = examine(tmp_path / "a", tmp_path / "m.onnx")
    assert report.max_batch_size == 1
    assert report.signature.inputs[0].shape == (2, 3)


def test_a_crash_is_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies examining is reported as such, and nothing else dies."""
    monkeypatch.setattr("salver.engine.probe.CHILD", "tests.engine.crashing_child")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with pytest.raises(InvalidArtifact, match="SIGSEGV"):
        examine(tmp_path / "a", models.xgboost_iris("json"))


def test_time_and_memory_are_bounded(tmp_path: Path) -> None:
    """A model that takes too long or too much is refused."""
    with pytest.raises(InvalidArtifact, match="longer than"):
        examine(
            tmp_path / "a",
            models.xgboost_iris("json"),
            settings=EngineSettings(probe_timeout_s=0.01),
        )
    with pytest.raises(SalverError):
        examine(tmp_path / "b", models.onnx_breast_cancer(), memory_bytes=120 * 1024 * 1024)


def test_pickles_and_misfits_are_refused(tmp_path: Path) -> None:
    """A pickle, an example of another shape, and text where numbers belong are coded errors."""
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(PickleRefused):
        examine(tmp_path / "a", tmp_path / "model.pkl")
    for example in (b"[[1, 2]]", b'[["a", "b", "c", "d"]]', b"{", b"[]"):
        with pytest.raises(InvalidExample):
            examine(tmp_path / "b", models.xgboost_iris("json"), example=example)


def test_mixed_columns_are_one_input_each(tmp_path: Path) -> None:
    """A pipeline over text and numbers gets its columns by name."""
    import pandas as pd  # noqa: PLC0415
    import skops.io  # noqa: PLC0415
    from sklearn.compose import make_column_transformer  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder  # noqa: PLC0415

    frame = pd.DataFrame(
        {
            "city": np.array(["Bonn", "Rom", "Bonn", "Rom"], dtype=object),
            "age": [1.0, 2.0, 3.0, 4.0],
        }
    )
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["city"]), remainder="passthrough"
        ),
        LogisticRegression(),
    ).fit(frame, [0, 1, 0, 1])
    skops.io.dump(model, tmp_path / "mixed.skops")
    report = examine(
        tmp_path / "a", tmp_path / "mixed.skops",
        example=json.dumps(frame.to_dict("records")).encode(),
    )  # fmt: skip
    assert [(s.name, s.datatype, s.shape) for s in report.signature.inputs] == [
        ("city", "BYTES", (-1, 1)),
        ("age", "FP64", (-1, 1)),
    ]


def test_steps_may_declare_what_callers_send(tmp_path: Path) -> None:
    """Without an example the declared inputs are tried with zeros; without either it is refused."""
    before = ({"step": "select", "columns": ["x"], "into": "X", "datatype": "FP32"},)
    declared = (TensorSpec("x", "FP64", (-1, 30)),)
    report = examine(tmp_path / "a", models.onnx_breast_cancer(), steps=Steps(declared, before))
    assert report.signature.inputs == declared
    assert [spec.name for spec in report.signature.outputs] == ["label", "probabilities"]
    assert report.max_batch_size > 1
    with pytest.raises(InvalidExample, match="--example"):
        examine(tmp_path / "b", models.onnx_breast_cancer(), steps=Steps((), before))


def test_code_tells_its_signature_by_running(tmp_path: Path) -> None:
    """Code is run with the example; the versions of what it requires are noted."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "requirements.txt").write_text("scikit-learn\n")
    report = examine(folder, models.python_iris(), example=rows_of("iris"), trust_code=True)
    assert report.runtime == "python"
    assert [(spec.name, spec.shape) for spec in report.signature.outputs] == [
        ("label", (-1,)),
        ("distances", (-1, 3)),
    ]
    assert report.max_batch_size > 1
    assert report.frameworks["scikit-learn"]
    with pytest.raises(CodeRefused):
        examine(folder, example=rows_of("iris"))


def test_a_trusted_pytorch_file_is_examined_all_the_same(tmp_path: Path) -> None:
    """Trust lets the loaders have it: the checks stay, and it tells its signature as before."""
    report = examine(tmp_path / "m", torch_models.iris_exported(), trust_code=True)
    assert report.runtime == "torch"
    assert [(spec.name, spec.shape) for spec in report.signature.inputs] == [("x", (-1, 4))]
    assert report.max_batch_size > 1
    for runtime in ("", "torch"):
        with pytest.raises(CodeRefused, match="PyTorch"):
            examine(tmp_path / "m", runtime=runtime, trust_pickle=True)
    with zipfile.ZipFile(tmp_path / "m" / torch_models.iris_exported().name, "a") as archive:
        archive.writestr("other/file", b"")
    for runtime in ("", "torch"):
        with pytest.raises(InvalidArtifact, match="one folder"):
            examine(tmp_path / "m", runtime=runtime, trust_code=True)


@pytest.mark.parametrize(
    ("most", "batch_size", "most_rows"), [(None, 64, 0), (100, 64, 100), (16, 16, 16), (3, 3, 3)]
)
def test_an_exported_program_is_batched_as_far_as_it_was_exported_for(
    tmp_path: Path, most: int | None, batch_size: int, most_rows: int
) -> None:
    """The range of its first size bounds its batches; a small one does not switch them off."""
    rows = torch.export.Dim("rows", min=1, max=most)
    path = torch_models.export(
        torch_models.iris(), tmp_path / "m.pt2", torch.ones(2, 4), sizes=({0: rows},)
    )
    report = examine(tmp_path / "a", path, trust_code=True)
    assert (report.max_batch_size, report.batching_note) == (batch_size, "")
    assert report.most_rows == most_rows
    declared = (TensorSpec("x", "FP64", (-1, 4)),)
    steps = Steps(declared, ({"step": "cast", "to": {"x": "FP32"}},))
    report = examine(tmp_path / "a", path, trust_code=True, steps=steps)
    assert (report.max_batch_size, report.most_rows) == (batch_size, most_rows)


TAGS = """
import numpy as np

class Model:
    def predict(self, inputs):
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        return {result}
"""


@pytest.mark.parametrize(
    ("pad", "result", "cause"),
    [
        ("longest", '{"tags": ids * 1.0}', "with texts of different lengths"),
        ("longest", '{"score": ids.mean(axis=1)}', "with texts of different lengths"),
        ("longest", '{"score": (ids * mask).sum(axis=1) / mask.sum(axis=1)}', ""),
        ("max_length", '{"tags": ids * 1.0}', ""),
    ],
)
def test_models_that_see_the_padding_are_not_batched(
    tmp_path: Path, pad: str, result: str, cause: str
) -> None:
    """One example row is enough to find answers that depend on the length of others' text."""
    import tokenizers  # noqa: PLC0415

    words = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "model.py").write_text(TAGS.replace("{result}", result))
    report = examine(
        tmp_path / "m", tmp_path / "model.py", tmp_path / "tokenizer.json",
        example=b'[{"text": "a b"}]', trust_code=True,
        steps=Steps(before=({"step": "tokenize", "column": "text", "pad": pad},)),
    )  # fmt: skip
    assert (report.max_batch_size == 1) is bool(cause)
    assert report.batching_note.startswith(cause)
    assert bool(report.batching_note) is bool(cause)


LEAVES = """
import subprocess, sys
from pathlib import Path

class Model:
    def load(self, path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path({mark!r}).write_text(str(child.pid))

    def predict(self, inputs):
        return inputs
"""


def test_what_code_started_ends_with_it(tmp_path: Path) -> None:
    """A process that code leaves behind keeps nobody waiting, and is ended."""
    mark = tmp_path / "pid"
    (tmp_path / "model.py").write_text(LEAVES.format(mark=str(mark)))
    report = examine(
        tmp_path / "a", tmp_path / "model.py", example=b"[[1.0], [2.0]]", trust_code=True
    )
    assert [spec.name for spec in report.signature.outputs] == ["input"]
    for _ in range(600):
        if not psutil.pid_exists(int(mark.read_text())):
            return
        time.sleep(0.05)
    pytest.fail("it still runs")
