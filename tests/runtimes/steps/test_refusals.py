"""Steps that do not exist, or do not fit, are refused with what was probably meant."""

from pathlib import Path
from typing import Any

import pytest

from salver.core.errors import InvalidSteps
from salver.core.signature import Column, TensorSpec
from salver.core.steps import read_steps
from salver.runtimes.steps.table import bind

SPECS = {
    "age": TensorSpec("age", "FP64", (-1, 1)),
    "city": TensorSpec("city", "BYTES", (-1, 1)),
    "count": TensorSpec("count", "INT64", (-1,)),
    "table": TensorSpec("table", "FP32", (-1, 2), (Column("width"), Column("height"))),
    "image": TensorSpec("image", "UINT8", (-1, 8, 8, 3)),
    "scores": TensorSpec("scores", "FP32", (-1, 3)),
}


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        ({"befor": []}, "the steps has no 'befor'; did you mean 'before'"),
        ({"before": []}, "neither 'before' nor 'after'"),
        ({"after": [{"step": "x"}] * 65}, "65 steps"),
        ({"before": "select"}, "the steps: Expected `array`"),
        ({"before": [], "inputs": [{"name": "x"}]}, "missing required field"),
        ({"inputs": [{"nam": "x", "datatype": "FP32", "shape": []}]}, "did you mean 'name'"),
        ([], "Expected `object`"),
        ({"before": [{"step": "one_hot", "columns": {"x": [2**70]}}]}, "beyond 64 bits"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-(2**70)]}]}, "beyond 64 bits"),
    ],
)
def test_documents_that_are_no_steps(document: Any, cause: str) -> None:
    """The outer form is checked when it comes in."""
    with pytest.raises(InvalidSteps, match=cause):
        read_steps(document)


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        ({}, "names no kind"),
        ({"step": "selct"}, "before step 1: there is no step 'selct'; did you mean 'select'"),
        ({"step": "select", "colums": ["age"]}, "did you mean 'columns'"),
        ({"step": "select", "columns": ["aeg"]}, "'aeg'; did you mean 'age'"),
        ({"step": "select", "columns": ["widht"]}, "did you mean 'width'"),
        ({"step": "select", "columns": []}, "no columns"),
        ({"step": "select", "columns": ["age", "count"], "into": "X"}, "give 'datatype'"),
        ({"step": "select", "columns": ["city"], "into": "X", "datatype": "FP32"}, "encode text"),
        ({"step": "select", "columns": ["age"], "datatype": "FP32"}, "goes with 'into'"),
        ({"step": "select", "columns": ["image"], "into": "X"}, "tables of a fixed width"),
        ({"step": "select", "columns": ["age"], "into": "X", "datatype": "FP23"}, "datatype"),
        ({"step": "scale", "columns": {"table": {"divide": 1e-50}}}, "is 0 as FP32"),
        ({"step": "scale", "columns": {"width": {"subtract": 1e39}}}, "FP32, which does not hold"),
        ({"step": "fill", "columns": {"width": 1e39}}, "FP32, which does not hold"),
        ({"step": "threshold", "tensor": "scores", "at": 1e39, "into": "y"}, "does not hold"),
        ({"step": "one_hot", "columns": {"width": [1e39]}}, "FP32, which does not hold"),
        ({"step": "one_hot", "columns": {"width": [0.1, 0.1 + 1e-12]}}, "given twice, as FP32"),
        ({"step": "one_hot", "columns": {"count": [1.5]}}, "INT64, which does not hold 1.5"),
        ({"step": "one_hot", "columns": {"count": [2**63]}}, "INT64, which does not hold"),
        ({"step": "cast", "to": {"width": "FP64"}}, "cast the tensor"),
        ({"step": "cast", "to": {"age": "double"}}, "Invalid enum value 'double'"),
        ({"step": "fill", "columns": {"count": 3}}, "INT64, where no value can be missing"),
        ({"step": "fill", "columns": {"age": "none"}}, "'none' is not"),
        ({"step": "fill", "columns": {"city": 3}}, "3.0 is not"),
        ({"step": "scale", "columns": {"city": {}}}, "only numbers are scaled"),
        ({"step": "scale", "columns": {"age": {"divide": 0}}}, "'divide' is 0"),
        ({"step": "scale", "columns": {"age": {"divid": 2}}}, "did you mean 'divide'"),
        ({"step": "scale", "columns": {"image": {"divide": [1, 2]}}}, "2 numbers .* axis of 3"),
        ({"step": "scale", "columns": {"width": {"divide": [1]}}}, "1 numbers"),
        ({"step": "one_hot", "columns": {"image": ["a"]}}, "not one value a row"),
        ({"step": "one_hot", "columns": {"city": []}}, "1 to 10000 categories"),
        ({"step": "one_hot", "columns": {"city": ["a", "a"]}}, "given twice"),
        ({"step": "one_hot", "columns": {"city": [1]}}, "holds text"),
        ({"step": "one_hot", "columns": {"city": ["a"]}, "unknown": "guess"}, "guess"),
        ({"step": "tokenize", "column": "age"}, "no text"),
        ({"step": "tokenize", "column": "city"}, "no file of the artifact"),
        ({"step": "tokenize", "column": "city", "tokenizer": "../../etc/passwd"}, "no file"),
        ({"step": "tokenize", "column": "city", "tokenizer": "bad.json"}, "bad.json: "),
        ({"step": "tokenize", "column": "city", "max_length": 0}, "max_length"),
        ({"step": "softmax", "tensor": "score"}, "did you mean 'scores'"),
        ({"step": "softmax", "tensor": "count"}, "INT64; this step takes"),
        ({"step": "threshold", "tensor": "count", "at": 1, "into": "y", "column": 0}, "no columns"),
        ({"step": "threshold", "tensor": "scores"}, "missing required field `at`"),
        ({"step": "labels", "tensor": "scores", "names": []}, "1 to 100000 names"),
        ({"step": "top_k", "tensor": "scores", "k": 4}, "has 3 values a row, 'k' is 4"),
        ({"step": "top_k", "tensor": "scores", "k": 0}, "'k' is 0"),
        ({"step": "top_k", "tensor": "count", "k": 1}, "one value a row"),
    ],
)
def test_steps_that_do_not_fit(step: dict[str, Any], cause: str, tmp_path: Path) -> None:
    """The step, its fault, and the nearest name that there is are told."""
    (tmp_path / "bad.json").write_text('{"version": "1.0"}')
    with pytest.raises(InvalidSteps, match=cause) as caught:
        bind([step], SPECS, tmp_path, "before")
    assert "before step 1" in caught.value.message


def test_a_later_step_sees_what_an_earlier_one_left(tmp_path: Path) -> None:
    """A column that was not selected is not there any more, and the step's number is told."""
    steps: list[dict[str, Any]] = [
        {"step": "select", "columns": ["age"]},
        {"step": "fill", "columns": {"city": "x"}},
    ]
    with pytest.raises(InvalidSteps, match=r"before step 2 \(fill\): there is no tensor or"):
        bind(steps, SPECS, tmp_path, "before")
