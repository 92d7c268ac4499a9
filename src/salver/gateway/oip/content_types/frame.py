"""What a whole request is said to be, a data frame or one array, as the inputs of a model."""

import numpy as np

from salver.core.datatypes import BYTES
from salver.core.errors import InvalidTensor, MissingInput, UnknownInput
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import AnyArray, Tensor, converted

_TABLE_AXES = 2


def lay_only(tensors: list[Tensor], signature: Signature) -> list[Tensor]:
    """Return a request's only tensor as a model's only input, whatever its name is."""
    if len(tensors) != 1 or len(signature.inputs) != 1:
        return tensors
    tensor = tensors[0]
    return [Tensor(signature.inputs[0].name, tensor.datatype, tensor.shape, tensor.buffer)]


def lay_columns(columns: list[Tensor], signature: Signature) -> list[Tensor]:
    """Return the inputs that a signature declares, made of columns ``[n]`` or ``[n, 1]``.

    Columns are put together by name, as rows are. A model with one input and no column names
    takes them in the order sent. An input that is sent whole stays whole.
    Raises ``InvalidTensor``, ``MissingInput`` or ``UnknownInput``.
    """
    given = {column.name: column for column in columns}
    if len(given) != len(columns):
        raise InvalidTensor("a data frame has two columns of one name")
    specs = signature.inputs
    if len(specs) == 1 and not specs[0].columns and specs[0].name not in given:
        return [_input(specs[0], columns)]
    inputs: list[Tensor] = []
    used: set[str] = set()
    for spec in specs:
        names = _names(spec, given)
        if spec.optional and not any(name in given for name in names):
            continue
        for name in names:
            if name not in given:
                raise MissingInput(f"the data frame lacks the column {name!r}")
        used.update(names)
        inputs.append(_input(spec, [given[name] for name in names]))
    unknown = set(given) - used
    if unknown:
        known = ", ".join(column.name for spec in specs for column in spec.columns or (spec,))
        raise UnknownInput(f"unknown column {min(unknown)!r}; the model takes {known}")
    return inputs


def _names(spec: TensorSpec, given: dict[str, Tensor]) -> list[str]:
    names = [column.name for column in spec.columns]
    if not names or (spec.name in given and not all(name in given for name in names)):
        return [spec.name]
    return names


def _input(spec: TensorSpec, columns: list[Tensor]) -> Tensor:
    if len(columns) == 1:
        return _alone(spec, columns[0])
    arrays = [_values(spec, column) for column in columns]
    lengths = sorted({array.size for array in arrays})
    if len(lengths) > 1:
        raise InvalidTensor(f"the columns of a data frame have {lengths[0]} and {lengths[-1]} rows")
    return Tensor.from_array(spec.name, np.stack(arrays, axis=1))


def _alone(spec: TensorSpec, column: Tensor) -> Tensor:
    """Return an input that is one column; the signature's check says what else is wrong."""
    shape, rows = column.shape, column.shape[:1]
    if not spec.accepts_shape(shape) and shape in (rows, (*rows, 1)):
        shape = rows if len(spec.shape) == 1 else (*rows, 1)
    if column.datatype == spec.datatype:
        return Tensor(spec.name, column.datatype, shape, column.buffer)
    _check_kind(spec, column)
    array = converted(column.name, column.array(), spec.datatype)
    return Tensor.from_array(spec.name, array.reshape(shape))


def _values(spec: TensorSpec, column: Tensor) -> AnyArray:
    shape = column.shape
    if not shape or len(shape) > _TABLE_AXES or shape[1:] not in ((), (1,)):
        raise InvalidTensor(
            f"column {column.name!r} has shape {list(shape)}; a column is [n] or [n, 1]"
        )
    _check_kind(spec, column)
    array = column.array().reshape(-1)
    return array if spec.datatype == BYTES else converted(column.name, array, spec.datatype)


def _check_kind(spec: TensorSpec, column: Tensor) -> None:
    if (spec.datatype == BYTES) != (column.datatype == BYTES):
        raise InvalidTensor(
            f"column {column.name!r} is {column.datatype}, the model takes {spec.datatype}"
        )
