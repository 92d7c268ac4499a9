"""Rows as people write them."""

import numpy as np
import pytest

from salver.core.errors import (
    CallerError,
    InvalidExample,
    InvalidTensor,
    MissingInput,
    UnknownInput,
)
from salver.core.rows import (
    body_to_tensors,
    infer_inputs,
    parse_document,
    rows_to_tensors,
    tensors_to_body,
    tensors_to_rows,
)
from salver.core.signature import Column, Signature, TensorSpec
from salver.core.tensor import Tensor

TABULAR = Signature((TensorSpec("input", "FP32", (-1, 2), (Column("a"), Column("b"))),), ())
MIXED = Signature((TensorSpec("city", "BYTES", (-1, 1)), TensorSpec("age", "INT64", (-1, 1))), ())


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"[[1, 2], [3, 4]]", "rows.json"),
        (b'[{"b": 2, "a": 1}, {"a": 3, "b": 4}]', "rows.json"),
        (b"a,b\n1,2\n3,4\n", "rows.csv"),
        (b"\xef\xbb\xbfb,a\r\n2,1\r\n4,3\r\n", "stdin"),
    ],
)
def test_every_form_is_the_same_tensor(data: bytes, name: str) -> None:
    """Order of columns and form do not matter."""
    (tensor,) = rows_to_tensors(parse_document(data, name), TABULAR)
    assert (tensor.name, tensor.datatype) == ("input", "FP32")
    assert tensor.array().tolist() == [[1, 2], [3, 4]]


def test_mixed_columns() -> None:
    """Each column is an input of its own."""
    rows = parse_document(b"city,age\nBonn,3\nRom,4\n", "x.csv")
    city, age = rows_to_tensors(rows, MIXED)
    assert city.array().tolist() == [[b"Bonn"], [b"Rom"]]
    assert age.array().tolist() == [[3], [4]]


def test_missing_cells_are_not_a_number() -> None:
    """null in a numeric column is NaN, which tree models take as missing."""
    (tensor,) = rows_to_tensors([[1, None]], TABULAR)
    assert np.isnan(tensor.array()[0, 1])


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([{"a": 1}], MissingInput),
        ([{"a": 1, "b": 2, "c": 3}], UnknownInput),
        ([[1, 2, 3]], InvalidTensor),
        ([["x", "y"]], InvalidTensor),
        ([], InvalidTensor),
    ],
)
def test_misfits_are_named(rows: list[object], error: type[CallerError]) -> None:
    """What does not fit the signature is refused with its reason."""
    with pytest.raises(error):
        rows_to_tensors(rows, TABULAR)


def test_inputs_are_inferred_from_an_example() -> None:
    """One type is one tensor with columns; mixed types are one input each."""
    (spec,), _ = infer_inputs(parse_document(b'[{"a": 1, "b": 2.5}]'))
    assert (spec.name, spec.datatype, spec.shape) == ("input", "FP64", (-1, 2))
    assert [column.name for column in spec.columns] == ["a", "b"]
    specs, _ = infer_inputs(parse_document(b'[{"a": "x", "b": 2.5}]'))
    assert [(item.name, item.datatype) for item in specs] == [("a", "BYTES"), ("b", "FP64")]


@pytest.mark.parametrize(
    "data", [b"[]", b"{", b"5", b"a,b\n1\n", b"a,b\n", b"\xff\xfe", b'[[1], {"a": 1}]', b'"x"']
)
def test_bad_documents_are_refused(data: bytes) -> None:
    """The error says what rows look like."""
    with pytest.raises(InvalidExample):
        parse_document(data)


def test_bodies_and_rows_go_back() -> None:
    """Tensors become an OIP body and plain rows."""
    tensors = [
        Tensor.from_array("label", np.array([1, 0])),
        Tensor.from_array("p", np.array([[0.5, 0.5], [1, 0]])),
    ]
    again = body_to_tensors({"inputs": tensors_to_body(tensors)})
    assert [bytes(t.buffer) for t in again] == [bytes(t.buffer) for t in tensors]
    assert tensors_to_rows(tensors) == [{"label": 1, "p": [0.5, 0.5]}, {"label": 0, "p": [1, 0]}]


def test_text_columns_of_csv_stay_as_written() -> None:
    """01234 is a number in a numeric column and text in a text column; 1_000 is always text."""
    codes = rows_to_tensors(parse_document(b"city,age\n01234,3\n1_000,4\n", "x.csv"), MIXED)
    assert codes[0].array().tolist() == [[b"01234"], [b"1_000"]]
    (numbers,) = rows_to_tensors(parse_document(b"a,b\n01,2e3\n", "x.csv"), TABULAR)
    assert numbers.array().tolist() == [[1, 2000]]
    with pytest.raises(InvalidTensor):
        rows_to_tensors(parse_document(b"a,b\n1_000,2\n", "x.csv"), TABULAR)
    specs, _ = infer_inputs(parse_document(b"a,b\nx_1,2\n", "x.csv"))
    assert [spec.datatype for spec in specs] == ["BYTES", "FP64"]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", -1),
        ("UINT8", 300),
        ("UINT64", -1),
        ("INT64", 2**63),
        ("INT32", 2**40 + 7),
        ("BOOL", 2),
        ("FP16", 1e6),
    ],
)
def test_what_does_not_fit_is_refused_not_wrapped(datatype: str, value: float) -> None:
    """A value never turns into another one on its way into a tensor."""
    signature = Signature((TensorSpec("x", datatype, (-1, 1)),), ())
    with pytest.raises(InvalidTensor):
        rows_to_tensors([[value]], signature)


def test_an_example_that_lacks_a_column_is_refused() -> None:
    """Not taken for a missing number: a slip in one record would change the signature."""
    with pytest.raises(MissingInput, match="row 2 lacks the column 'b'"):
        infer_inputs([{"a": 1, "b": 2}, {"a": 3}])
