"""Finds the values of each input in rows (`instances`) or columns (`inputs`)."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from salver.core.errors import InvalidRequest, InvalidTensor, MissingInput, UnknownInput
from salver.core.signature import Signature, TensorSpec

BLOB = frozenset(("b64",))
"""Keys of an object that is one value of bytes."""

_TABLE_DIMENSIONS = 2
_MAX_LISTED = 20
_MAX_NAME_CHARS = 140


class Part(NamedTuple):
    """An input and its value in nested lists; ``columns`` are the names its last axis came by."""

    spec: TensorSpec
    value: Any
    columns: tuple[str, ...] = ()


def from_instances(instances: Any, signature: Signature) -> list[Part]:
    """Lay out rows: objects that name inputs or columns, values of the only input, or lists.

    A list has one value for each needed input, in the signature's order.

    Raises ``InvalidRequest``, ``InvalidTensor``, ``MissingInput`` or ``UnknownInput``.
    """
    if not isinstance(instances, list) or not instances:
        raise InvalidRequest("'instances' must be a list with at least one instance")
    first = instances[0]
    if not _names_inputs(first, signature):
        needed = _needed(signature)
        if len(needed) > 1 and all(_has_length(row, len(needed)) for row in instances):
            return [
                Part(spec, [row[index] for row in instances]) for index, spec in enumerate(needed)
            ]
        return [
            Part(
                _only_input(needed, "send objects of them, or a list of one value for each"),
                instances,
            )
        ]
    for number, instance in enumerate(instances, start=1):
        if not isinstance(instance, dict):
            raise InvalidTensor(f"instance {number} is no object, but the first one is")
        if instance.keys() != first.keys():
            raise _difference(number, instance, first)
    return [
        Part(
            spec,
            [[row[name] for name in columns] for row in instances]
            if columns
            else [row[spec.name] for row in instances],
            columns,
        )
        for spec, columns in _found(first, signature)
    ]


def from_inputs(inputs: Any, signature: Signature) -> list[Part]:
    """Lay out columns: the value of the only input, or an object of inputs or table columns.

    Raises ``InvalidRequest``, ``InvalidTensor``, ``MissingInput`` or ``UnknownInput``.
    """
    if not _names_inputs(inputs, signature):
        return [Part(_only_input(_needed(signature), "send an object of them"), inputs)]
    return [
        Part(spec, _table(spec, inputs, columns) if columns else inputs[spec.name], columns)
        for spec, columns in _found(inputs, signature)
    ]


def _table(spec: TensorSpec, inputs: dict[str, Any], columns: tuple[str, ...]) -> list[list[Any]]:
    cells = [inputs[name] for name in columns]
    if not all(isinstance(column, list) for column in cells):
        raise InvalidTensor(f"input {spec.name!r}: every column must be a list")
    try:
        return [list(row) for row in zip(*cells, strict=True)]
    except ValueError as error:
        raise InvalidTensor(f"input {spec.name!r}: its columns are not equally long") from error


def _names_inputs(value: Any, signature: Signature) -> bool:
    """Tell whether a value is an object of names; one with the key ``b64`` alone is bytes."""
    if not isinstance(value, dict):
        return False
    return value.keys() != BLOB or "b64" in _known(signature)


def _has_length(row: Any, count: int) -> bool:
    return isinstance(row, list) and len(row) == count


def _needed(signature: Signature) -> list[TensorSpec]:
    """Return the inputs that must be there; all, where none must."""
    return [spec for spec in signature.inputs if not spec.optional] or list(signature.inputs)


def _only_input(needed: list[TensorSpec], advice: str) -> TensorSpec:
    if len(needed) != 1:
        names = _listed(spec.name for spec in needed)
        raise InvalidRequest(f"the model takes {names}; {advice}")
    return needed[0]


def _known(signature: Signature) -> dict[str, None]:
    names: dict[str, None] = {}
    for spec in signature.inputs:
        columns = _columns(spec)
        names.update(dict.fromkeys(columns or (spec.name,)))
    return names


def _columns(spec: TensorSpec) -> tuple[str, ...]:
    if len(spec.shape) > _TABLE_DIMENSIONS:
        return ()
    return tuple(column.name for column in spec.columns)


def _found(given: dict[str, Any], signature: Signature) -> list[tuple[TensorSpec, tuple[str, ...]]]:
    """Return the inputs that names speak of, each with its columns or by its own name."""
    known, own = _known(signature), {spec.name for spec in signature.inputs}
    for name in given:
        if name not in known and name not in own:
            raise UnknownInput(
                f"unknown name {name[:_MAX_NAME_CHARS]!r}; the model takes {_listed(known)}"
            )
    found: list[tuple[TensorSpec, tuple[str, ...]]] = []
    for spec in signature.inputs:
        columns = _columns(spec)
        absent = [name for name in columns if name not in given]
        if columns and not absent:
            found.append((spec, columns))
        elif spec.name in given:
            found.append((spec, ()))
        elif len(absent) < len(columns):
            raise MissingInput(f"the column {absent[0]!r} is missing")
        elif not spec.optional:
            raise MissingInput(f"{_listed(columns or (spec.name,))} is missing")
    used = {name for spec, columns in found for name in columns or (spec.name,)}
    for name in given:
        if name not in used:
            raise InvalidRequest(f"{name!r} is given twice, as a column and with its whole input")
    return found


def _difference(number: int, instance: dict[str, Any], first: dict[str, Any]) -> InvalidRequest:
    for name in first:
        if name not in instance:
            return MissingInput(f"instance {number} lacks {name[:_MAX_NAME_CHARS]!r}")
    surplus = next(name for name in instance if name not in first)
    return UnknownInput(
        f"instance {number} has {surplus[:_MAX_NAME_CHARS]!r}, which the first one has not"
    )


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    text = ", ".join(repr(name) for name in listed[:_MAX_LISTED])
    return text if len(listed) <= _MAX_LISTED else f"{text} and {len(listed) - _MAX_LISTED} more"
