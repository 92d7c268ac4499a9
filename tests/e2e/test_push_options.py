"""What can be said of a model at its push, and what comes of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.e2e.server import Server, ask, write_rows

NAMES = models.columns("iris")
ROWS = models.rows("iris")[[0, 60, 120]].tolist()


def table(path: Path) -> Path:
    """Write three flowers as CSV."""
    lines = [NAMES, *ROWS]
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return path


def records(path: Path) -> Path:
    """Write the same as named rows."""
    return write_rows(path, [dict(zip(NAMES, row, strict=True)) for row in ROWS])


def body(path: Path) -> Path:
    """Write the same as a body of the protocol."""
    tensor = {"name": "flower", "datatype": "FP32", "shape": [3, 4], "data": ROWS}
    path.write_text(json.dumps({"inputs": [tensor]}))
    return path


def doubled(number: float, answer: float, **tolerances: float) -> str:
    """Return a golden line that says what the double of a number is."""
    inputs, outputs = (
        [{"name": name, "datatype": "FP32", "shape": [1, 1], "data": [value]}]
        for name, value in (("x", number), ("y", answer))
    )
    return json.dumps({"inputs": inputs, "outputs": outputs, **tolerances})


def push_golden(
    server: Server, folder: Path, name: str, lines: Sequence[str]
) -> tuple[int, str, bool]:
    """Push a doubling model with golden lines; returns exit code, error and whether it is there."""
    golden = folder / "golden.jsonl"
    golden.write_text("\n".join(lines) + "\n")
    model = str(models.onnx_identity("FP32", 2))
    done = server.salver("push", model, "--name", name, "--golden", str(golden))
    known = [item["name"] for item in server.json("get", "models")]
    return done.returncode, done.stderr.decode(), name in known


def test_an_alias_points_to_what_was_pushed(server: Server) -> None:
    """A push with --alias sets the alias, the next one moves it, and both can be deployed by it."""
    for scale, version in ((2, 1), (3, 2)):
        server.push(models.onnx_identity("FP32", scale), "named", "--alias", "live")
        (found,) = [item for item in server.json("get", "models") if item["name"] == "named"]
        assert found["aliases"] == {"live": version}
        server.ok("deploy", "named@live")
        answer = server.ok("predict", "named", "-", "-o", "json", stdin=b"[[10]]")
        assert json.loads(answer) == [{"y": 10 * scale}]


def test_a_runtime_that_is_named_is_used(server: Server) -> None:
    """The runtime named is the one that looks at the file, whatever the file looks like."""
    model = str(models.onnx_identity("FP32"))
    for runtime, cause in (("xgboost", "[invalid_artifact]"), ("abacus", "[unsupported_format]")):
        done = server.salver("push", model, "--name", "spoken", "--runtime", runtime)
        assert done.returncode == 1
        assert cause in done.stderr.decode()
    assert server.json("push", model, "--name", "spoken", "--runtime", "onnx")["runtime"] == "onnx"


def test_a_runtime_decides_between_two(server: Server, tmp_path: Path) -> None:
    """A folder with files of two formats is refused until --runtime says which is the model."""
    for path in (models.onnx_identity("FP32"), models.xgboost_iris("json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    done = server.salver("push", str(tmp_path), "--name", "two")
    assert done.returncode == 1
    assert b"--runtime" in done.stderr
    pushed = server.json("push", str(tmp_path), "--name", "two", "--runtime", "onnx")
    assert pushed["runtime"] == "onnx"


def test_labels_are_kept(server: Server) -> None:
    """Labels are read back with their version as they were given; what is none is wrong usage."""
    model = models.onnx_identity("FP32")
    server.push(model, "labelled", "--label", "team=risk", "--label", "formula=a=b")
    (found,) = [item for item in server.json("get", "models") if item["name"] == "labelled"]
    assert found["versions"][0]["labels"] == {"team": "risk", "formula": "a=b"}
    assert server.salver("push", str(model), "--name", "labelled", "--label", "x").returncode == 2


@pytest.mark.parametrize(
    ("write", "name", "datatype", "columns"),
    [
        (table, "input", "FP64", NAMES),
        (records, "input", "FP64", NAMES),
        (body, "flower", "FP32", []),
    ],
    ids=["csv", "records", "body"],
)
def test_an_example_tells_the_inputs(
    server: Server, tmp_path: Path, write: Any, name: str, datatype: str, columns: list[str]
) -> None:
    """A model that does not know its inputs takes their names and types from any form of rows."""
    example = write(tmp_path / "example")
    model, known_as = str(models.skops_iris(11)), f"seen-as-{write.__name__}"
    pushed = server.json("push", model, "--name", known_as, "--example", str(example))
    (seen,) = pushed["signature"]["inputs"]
    assert seen == {"name": name, "datatype": datatype, "shape": [-1, 4], "columns": columns}


def test_an_example_is_needed_and_must_fit(server: Server, tmp_path: Path) -> None:
    """No example where the file does not tell the inputs, or one of other inputs, is refused."""
    example = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    for words in (
        (str(models.skops_iris(11)),),
        (str(models.xgboost_iris("json")), "--example", str(example)),
    ):
        done = server.salver("push", *words, "--name", "unfit")
        assert done.returncode == 1
        assert b"[invalid_example]" in done.stderr


def test_golden_lines_that_are_met(server: Server, tmp_path: Path) -> None:
    """A model that answers every line within its tolerance is stored."""
    lines = [doubled(1, 2), "", doubled(-3, -6), doubled(10, 21, atol=1.5), doubled(0, 0)]
    assert push_golden(server, tmp_path, "met", lines) == (0, "", True)


@pytest.mark.parametrize(
    ("line", "causes"),
    [
        (doubled(2, 5), ("'y'", "4.0", "5.0", "[golden_mismatch]")),
        (doubled(10, 21, rtol=0.01), ("'y'", "[golden_mismatch]")),
        (doubled(2, 4).replace('"y"', '"z"'), ("'z'", "[golden_mismatch]")),
        (doubled(2, 4)[:-1], ("golden line 2", "[invalid_example]")),
        ("[]", ("golden line 2", "[invalid_example]")),
    ],
    ids=["answer", "tolerance", "output", "json", "form"],
)
def test_one_golden_line_that_is_not_met(
    server: Server, tmp_path: Path, line: str, causes: tuple[str, ...]
) -> None:
    """One line among others that the model fails refuses the push, and nothing is stored."""
    lines = [doubled(1, 2), line, doubled(3, 6)]
    status, error, stored = push_golden(server, tmp_path, "missed", lines)
    assert (status, stored, error.count("\n")) == (1, False, 1)
    for cause in causes:
        assert cause in error


def test_csv_from_a_pipe(server: Server, tmp_path: Path) -> None:
    """CSV on standard input is answered as the same rows in a file; a wrong column is named."""
    server.push(models.xgboost_iris("json"), "piped")
    server.ok("deploy", "piped")
    text = table(tmp_path / "rows").read_bytes()
    piped = json.loads(server.ok("predict", "piped", "-", "-o", "json", stdin=text))
    rows = write_rows(tmp_path / "rows.json", ROWS)
    assert piped == json.loads(server.ok("predict", "piped", str(rows), "-o", "json"))
    best = [int(np.argmax(row["prediction"])) for row in piped]
    assert best == [0, 1, 2]
    done = server.salver("predict", "piped", "-", stdin=text.replace(b"sepal_length", b"length"))
    assert done.returncode == 1
    assert b"[missing_input]" in done.stderr
    assert b"sepal_length" in done.stderr


def test_deploying_a_name_pins_its_newest_version(server: Server, tmp_path: Path) -> None:
    """The newest at that moment answers, and goes on when there is a newer one."""
    example = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])

    def push(scale: int) -> None:
        server.push(models.onnx_identity("FP32", scale), "pinned", "--example", str(example))

    def answer() -> float:
        status, document = ask(server.port, "pinned", 1.0)
        assert status == 200
        number: float = document["outputs"][0]["data"][0]
        return number

    push(2)
    push(3)
    server.ok("deploy", "pinned")
    assert answer() == 3.0
    push(4)
    server.ok("status")
    assert answer() == 3.0
    server.ok("deploy", "pinned")
    assert answer() == 4.0
