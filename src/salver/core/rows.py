"""Rows as people write them, as tensors and back.

A document is JSON rows (``[[1, 2], …]`` or ``[{"age": 3}, …]``), CSV with a header, or an Open
Inference Protocol body. Columns of one type are one tensor ``[-1, n]``; mixed columns are one
input each, ``[-1, 1]``.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from salver.core.datatypes import BYTES, DTYPES
from salver.core.errors import InvalidExample, InvalidTensor, MissingInput, UnknownInput
from salver.core.signature import VARIABLE, Column, Signature, TensorSpec
from salver.core.tensor import AnyArray, Tensor, converted, encode_bytes

SINGLE_INPUT = "input"
Rows = Sequence[Sequence[Any]] | Sequence[Mapping[str, Any]]


def parse_document(data: bytes, name: str = "") -> Any:
    """Return rows, or an OIP body as a dictionary; ``name`` tells CSV by its ending.

    Raises ``InvalidExample`` when it is neither JSON nor CSV with a header and rows.
    """
    if not name.lower().endswith(".csv"):
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            if data.lstrip()[:1] in (b"[", b"{"):
                raise InvalidExample(f"the rows are not JSON: {error}") from error
            return _csv_rows(data)
        if isinstance(document, dict) and "inputs" in document:
            return document
        return _checked_rows(document)
    return _csv_rows(data)


def _checked_rows(document: object) -> Rows:
    if isinstance(document, dict):
        return [document]
    if isinstance(document, list) and document:
        if not isinstance(document[0], list | dict):
            return [document]
        kind = type(document[0])
        if all(type(row) is kind for row in document):
            return document
    raise InvalidExample("rows are a JSON list of lists, or of objects, with at least one row")


def _csv_rows(data: bytes) -> list[dict[str, Any]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidExample("the file is neither JSON nor UTF-8 text") from error
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise InvalidExample(f"line {reader.line_num} is not CSV: {error}") from error
    if not rows:
        raise InvalidExample("the CSV has no rows below its header")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise InvalidExample(f"line {number} has another number of cells than the header")
    return [{key: CsvText(value) for key, value in row.items()} for row in rows]


class CsvText(str):
    """A cell as it is written; whether it is a number depends on its column."""

    __slots__ = ()


def _cell(text: Any) -> Any:
    """Return a cell of CSV as the number that it is, or text; anything else as it is."""
    if type(text) is not CsvText:
        return text
    for kind in (int, float) if "_" not in text else ():
        try:
            return kind(text)
        except ValueError:
            continue
    return str(text)


def rows_to_tensors(rows: Any, signature: Signature) -> list[Tensor]:
    """Lay rows, or an OIP body, out as the signature's inputs.

    Raises ``InvalidTensor``, ``MissingInput`` or ``UnknownInput``, naming row and column.
    """
    if isinstance(rows, dict):
        return body_to_tensors(rows)
    if len(rows) == 0:
        raise InvalidTensor("there are no rows")
    if isinstance(rows[0], Mapping):
        return _from_records(rows, signature)
    if len(signature.inputs) == 1:
        return [_tensor(signature.inputs[0], rows)]
    if len(rows[0]) != len(signature.inputs):
        raise InvalidTensor(
            f"a row has {len(rows[0])} values, the model has {len(signature.inputs)} inputs"
        )
    return [
        _tensor(spec, [[row[index]] for row in rows]) for index, spec in enumerate(signature.inputs)
    ]


def _from_records(rows: Sequence[Mapping[str, Any]], signature: Signature) -> list[Tensor]:
    known: set[str] = set()
    tensors: list[Tensor] = []
    for spec in signature.inputs:
        names = [column.name for column in spec.columns] or [spec.name]
        known.update(names)
        if spec.optional and all(name not in rows[0] for name in names):
            continue
        values = [[_value(row, name, number) for name in names] for number, row in enumerate(rows)]
        tensors.append(_tensor(spec, values))
    unknown = set(rows[0]) - known
    if unknown:
        raise UnknownInput(
            f"unknown column {min(unknown)!r}; the model takes {', '.join(sorted(known))}"
        )
    return tensors


def _value(row: Mapping[str, Any], name: str, number: int) -> Any:
    if name not in row:
        raise MissingInput(f"row {number + 1} lacks the column {name!r}")
    return row[name]


def _tensor(spec: TensorSpec, values: Any) -> Tensor:
    """Return one input, shaped as the signature has it."""
    array = _array(spec, values)
    if array.ndim == len(spec.shape) + 1 and array.shape[-1] == 1:
        array = array.reshape(array.shape[:-1])
    if not spec.accepts_shape(array.shape):
        raise InvalidTensor(
            f"input {spec.name!r} has shape {list(spec.shape)} (-1 = any), the rows make "
            f"{list(array.shape)}"
        )
    return Tensor.from_array(spec.name, array)


def _array(spec: TensorSpec, values: Any) -> AnyArray:
    if spec.datatype == BYTES:
        return np.array(values, dtype=object)
    try:
        if type(values[0]) is list and values[0] and type(values[0][0]) is CsvText:
            values = [[_cell(cell) for cell in row] for row in values]
        array: AnyArray = np.array(values)
        if array.dtype.kind == "O":
            array = np.array([[_missing(cell) for cell in row] for row in values], np.float64)
    except (ValueError, TypeError) as error:
        raise InvalidTensor(f"input {spec.name!r}: rows of unequal length or no numbers") from error
    if array.dtype.kind not in "biuf":
        raise InvalidTensor(
            f"input {spec.name!r} is {spec.datatype}; the rows hold something else than numbers"
        )
    if DTYPES[spec.datatype].kind in "iu" and array.dtype.kind == "f":
        raise InvalidTensor(f"input {spec.name!r} is {spec.datatype}; the rows hold fractions")
    return converted(spec.name, array, spec.datatype)


def _missing(cell: Any) -> float:
    """An empty cell of a numeric column is NaN, which tree models take as missing."""
    return float("nan") if cell is None or cell == "" else float(cell)


def infer_inputs(rows: Any) -> tuple[tuple[TensorSpec, ...], list[Tensor]]:
    """Return the inputs that rows seem to describe, without a signature.

    Columns of one type are one tensor named ``input``; mixed columns are one input each.
    """
    if isinstance(rows, dict):
        tensors = body_to_tensors(rows)
        specs = tuple(
            TensorSpec(t.name, t.datatype, (VARIABLE, *t.shape[1:]) if t.shape else ())
            for t in tensors
        )
        return specs, tensors
    names = list(rows[0]) if isinstance(rows[0], Mapping) else None
    width = len(rows[0])
    table = [
        [_cell(cell) for cell in ([_value(row, name, number) for name in names] if names else row)]
        for number, row in enumerate(rows)
    ]
    if any(len(row) != width for row in table):
        raise InvalidExample("the rows have unequal numbers of columns")
    kinds = [_kind([row[index] for row in table]) for index in range(width)]
    if len(set(kinds)) == 1:
        columns = tuple(Column(name) for name in names) if names else ()
        spec = TensorSpec(SINGLE_INPUT, kinds[0], (VARIABLE, width), columns)
        return (spec,), [_tensor(spec, table)]
    mixed = tuple(
        TensorSpec(names[index] if names else f"column_{index}", kind, (VARIABLE, 1))
        for index, kind in enumerate(kinds)
    )
    return mixed, [
        _tensor(spec, [[row[index]] for row in table]) for index, spec in enumerate(mixed)
    ]


def _kind(cells: list[Any]) -> str:
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds <= {int, float} and kinds:
        return "FP64"
    if kinds == {bool}:
        return "BOOL"
    if kinds == {str}:
        return BYTES
    raise InvalidExample("a column mixes text and numbers, or is empty")


def body_to_tensors(body: Mapping[str, Any], key: str = "inputs") -> list[Tensor]:
    """Return the tensors of an OIP body with JSON data; raises ``InvalidExample``."""
    tensors: list[Tensor] = []
    try:
        for item in body[key]:
            shape = tuple(int(size) for size in item["shape"])
            name, datatype, data = item["name"], item["datatype"], item["data"]
            if datatype == BYTES:
                flat = np.array(data, dtype=object).ravel().tolist()
                tensor = Tensor(name, BYTES, shape, encode_bytes(flat))
            else:
                array = np.array(data, DTYPES[datatype]).reshape(shape)
                tensor = Tensor.from_array(name, array)
            tensor.check()
            tensors.append(tensor)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidExample(
            f"{key!r} is not a list of tensors with name, shape, datatype and data: {error}"
        ) from error
    return tensors


def tensors_to_body(tensors: list[Tensor]) -> list[dict[str, Any]]:
    """Return tensors as an OIP body has them, with flat JSON data."""
    return [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "data": [_plain(value) for value in tensor.array().ravel().tolist()],
        }
        for tensor in tensors
    ]


def tensors_to_rows(tensors: list[Tensor]) -> list[dict[str, Any]]:
    """Return one dictionary for each row of the outputs, in plain values."""
    arrays = {tensor.name: tensor.array() for tensor in tensors}
    lengths = {array.shape[0] if array.ndim else 1 for array in arrays.values()}
    if len(lengths) != 1:
        return [{name: _plain(array.tolist()) for name, array in arrays.items()}]
    return [
        {name: _row(array, index) for name, array in arrays.items()}
        for index in range(lengths.pop())
    ]


def _row(array: AnyArray, index: int) -> Any:
    if not array.ndim:
        return _plain(array.tolist())
    row = array[index]
    values = row.tolist() if isinstance(row, np.ndarray | np.generic) else row
    if isinstance(values, list) and len(values) == 1:
        values = values[0]
    return _plain(values)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
