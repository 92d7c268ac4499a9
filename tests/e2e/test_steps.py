"""Steps around real models, from the push to the answer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests import models
from tests.e2e.server import Server, write_rows

IRIS_STEPS = {
    "after": [
        {"step": "labels", "tensor": "label", "names": ["setosa", "versicolor", "virginica"]},
        {
            "step": "top_k",
            "tensor": "probabilities",
            "k": 2,
            "names": ["setosa", "versicolor", "virginica"],
        },
        {"step": "threshold", "tensor": "probabilities", "column": 2, "at": 0.5, "into": "late"},
        {"step": "select", "columns": ["label", "top", "top_scores", "late"]},
    ]
}


def written(path: Path, steps: object) -> str:
    """Write steps as JSON, which is YAML, and return the path."""
    path.write_text(json.dumps(steps))
    return str(path)


def predicted(server: Server, endpoint: str, rows: Path) -> list[dict[str, Any]]:
    """Return the rows that an endpoint answers."""
    answer: list[dict[str, Any]] = json.loads(
        server.ok("predict", endpoint, str(rows), "-o", "json")
    )
    return answer


@pytest.mark.parametrize("kind", ["onnx", "skops"])
def test_raw_rows_go_in(server: Server, tmp_path: Path, kind: str) -> None:
    """An endpoint takes what people have: text and missing numbers; the model sees its table."""
    rows = write_rows(tmp_path / "cars.json", models.cars())
    example = write_rows(tmp_path / "few.json", models.cars()[:5])
    steps = written(tmp_path / "steps.yaml", models.car_steps())
    pushed = server.json(
        "push", str(models.car_model(kind)), "--name", f"cars-{kind}",
        "--steps", steps, "--example", str(example),
    )  # fmt: skip
    inputs = [(spec["name"], spec["datatype"]) for spec in pushed["signature"]["inputs"]]
    assert inputs == [
        (name, "BYTES" if name == "Origin" else "FP64") for name in models.CAR_COLUMNS
    ]
    assert pushed["max_batch_size"] > 1
    server.ok("deploy", f"cars-{kind}")
    answers = [next(iter(row.values())) for row in predicted(server, f"cars-{kind}", rows)]
    expected = models.car_pipeline().predict(pd.DataFrame(models.cars()))
    np.testing.assert_allclose(np.ravel(answers), expected, rtol=1e-4)


def test_names_come_out(server: Server, tmp_path: Path) -> None:
    """Labels, the best two, and a decision are the endpoint's outputs, in its metadata too."""
    steps = written(tmp_path / "steps.json", IRIS_STEPS)
    rows = write_rows(tmp_path / "rows.json", models.rows("iris")[[0, 60, 120]].tolist())
    words = ("--steps", steps, "--example", str(rows))
    pushed = server.json("push", str(models.skops_iris(12)), "--name", "flowers", *words)
    outputs = [
        (one["name"], one["datatype"], one["shape"]) for one in pushed["signature"]["outputs"]
    ]
    assert outputs == [
        ("label", "BYTES", [-1]),
        ("top", "BYTES", [-1, 2]),
        ("top_scores", "FP64", [-1, 2]),
        ("late", "BOOL", [-1]),
    ]
    server.ok("deploy", "flowers")
    answers = predicted(server, "flowers", rows)
    assert [row["label"] for row in answers] == ["setosa", "versicolor", "virginica"]
    assert [row["top"][0] for row in answers] == ["setosa", "versicolor", "virginica"]
    assert [row["late"] for row in answers] == [False, False, True]


def test_text_goes_into_a_published_model(server: Server, tmp_path: Path) -> None:
    """Sentences are tokenized in the worker with the model's own tokenizer."""
    folder = models.minilm(tmp_path / "minilm")
    outputs = {"types": "token_type_ids"}
    steps = {"before": [{"step": "tokenize", "column": "text", "outputs": outputs}]}
    texts = ["A cat sits on the mat.", "Interest rates rose.", "The kitten is on the rug."]
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [3], "data": texts}]}
    example = tmp_path / "texts.json"
    example.write_text(json.dumps(body))
    pushed = server.json(
        "push", str(folder), "--name", "minilm",
        "--steps", written(tmp_path / "steps.json", steps), "--example", str(example),
    )  # fmt: skip
    assert [one["name"] for one in pushed["signature"]["inputs"]] == ["text"]
    assert pushed["max_batch_size"] == 1
    server.ok("deploy", "minilm")
    with server.client() as client:
        vectors = []
        for text in texts:
            answer = client.predict("minilm", {"text": np.array([text.encode()], dtype=object)})
            vectors.append(next(iter(answer.outputs.values()))[0].mean(axis=0))
    likeness = np.corrcoef(vectors)
    assert likeness[0, 2] > max(likeness[0, 1], likeness[1, 2])


def test_other_steps_are_another_version(server: Server, tmp_path: Path) -> None:
    """The same bytes with other steps are executed otherwise; with the same they are the same."""
    rows = write_rows(tmp_path / "rows.json", models.rows("iris")[:2].tolist())
    versions = []
    for at in (0.5, 0.9, 0.5):
        step = {"step": "threshold", "tensor": "prediction", "at": at, "into": "sure"}
        steps = written(tmp_path / "steps.json", {"after": [step]})
        model = str(models.xgboost_iris("json"))
        words = ("--steps", steps, "--example", str(rows))
        versions.append(server.json("push", model, "--name", "sure", *words)["version"])
    assert versions == [1, 2, 1]


@pytest.mark.parametrize(
    ("steps", "cause"),
    [
        ({"after": [{"step": "topk", "tensor": "x", "k": 1}]}, "did you mean 'top_k'"),
        (
            {"after": [{"step": "top_k", "tensor": "predicton", "k": 1}]},
            "did you mean 'prediction'",
        ),
        ({"before": [{"step": "select", "columns": ["age"], "into": "X"}]}, "or column 'age'"),
        ({"befor": []}, "did you mean 'before'"),
        ({"before": [{"step": "one_hot", "columns": {"x": [2**70]}}]}, "beyond 64 bits"),
        ({"before": [{"step": "cast", "to": {"input": "FP16"}}]}, "add a cast"),
    ],
)
def test_steps_that_do_not_fit_are_refused(
    server: Server, tmp_path: Path, steps: object, cause: str
) -> None:
    """One line names the step, its fault and what was meant; nothing is stored."""
    rows = write_rows(tmp_path / "rows.json", models.rows("iris")[:2].tolist())
    done = server.salver(
        "push", str(models.xgboost_iris("json")), "--name", "unfit",
        "--steps", written(tmp_path / "steps.json", steps), "--example", str(rows),
    )  # fmt: skip
    error = done.stderr.decode()
    assert done.returncode == 1
    assert error.count("\n") == 1
    assert "[invalid_steps]" in error
    assert cause in error
    assert "unfit" not in [item["name"] for item in server.json("get", "models")]


def test_all_rows_at_once_and_one_by_one_agree(home: Path, tmp_path: Path) -> None:
    """With engine.steps rows the same requests get the same answers."""
    home.mkdir()
    rows = write_rows(tmp_path / "cars.json", models.cars()[:40])
    steps = written(tmp_path / "steps.yaml", models.car_steps())
    answers = []
    for way in ("batch", "rows"):
        (home / "salver.yaml").write_text(f"engine: {{steps: {way}}}")
        with Server(home) as running:
            if way == "batch":
                words = ("--steps", steps, "--example", str(rows))
                running.ok("push", str(models.car_model("onnx")), "--name", "cars", *words)
            running.ok("deploy", "cars")
            answers.append(predicted(running, "cars", rows))
    assert len(answers[0]) == 40
    np.testing.assert_allclose(
        [next(iter(row.values())) for row in answers[0]],
        [next(iter(row.values())) for row in answers[1]],
        rtol=1e-6,
    )
