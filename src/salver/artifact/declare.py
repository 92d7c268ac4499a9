"""What the owner of a model declares of its columns: ranges, categories, what is sensitive."""

import difflib
import math
from collections.abc import Iterator, Mapping

import msgspec

from salver.core.datatypes import BYTES
from salver.core.errors import InvalidArtifact
from salver.core.signature import Column, Signature, TensorSpec

_MAX_CATEGORIES = 10_000


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for one column; what is left out is not restricted."""

    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str | int | float | bool, ...] | None = None
    sensitive: bool = False


def declare(signature: Signature, declared: Mapping[str, Declaration]) -> Signature:
    """Return the signature with what was declared of its input columns.

    A column goes by its name, or by ``INPUT[POSITION]`` where the model has no names. Raises
    ``InvalidArtifact`` for a column that there is not, and for what its datatype cannot keep.
    """
    left = dict(declared)
    inputs = tuple(_declared(spec, left) for spec in signature.inputs)
    if left:
        name = next(iter(left))
        known = [column.name for spec in signature.inputs for column in _columns(spec)]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known[:20])}"
        raise InvalidArtifact(f"the model has no input column {name!r}; {hint}")
    return msgspec.structs.replace(signature, inputs=inputs)


def _declared(spec: TensorSpec, left: dict[str, Declaration]) -> TensorSpec:
    columns = tuple(_columns(spec))
    if not any(column.name in left for column in columns):
        return spec
    restricted = tuple(
        _restricted(spec, column, left.pop(column.name)) if column.name in left else column
        for column in columns
    )
    return msgspec.structs.replace(spec, columns=restricted)


def _columns(spec: TensorSpec) -> Iterator[Column]:
    """Yield the columns of the last axis, named by position where the model does not name them."""
    if spec.columns:
        yield from spec.columns
    elif len(spec.shape) <= 1 or spec.shape[-1] == 1:
        yield Column(spec.name)
    else:
        for position in range(max(0, spec.shape[-1])):
            yield Column(f"{spec.name}[{position}]")


def _restricted(spec: TensorSpec, column: Column, declared: Declaration) -> Column:
    limits = [limit for limit in (declared.minimum, declared.maximum) if limit is not None]
    if limits and spec.datatype in (BYTES, "BOOL"):
        raise InvalidArtifact(f"column {column.name!r} is {spec.datatype}, which has no range")
    if not all(math.isfinite(limit) for limit in limits) or limits != sorted(limits):
        raise InvalidArtifact(f"column {column.name!r}: minimum and maximum are not a range")
    categories = declared.categories
    if categories is not None and not 0 < len(categories) <= _MAX_CATEGORIES:
        raise InvalidArtifact(
            f"column {column.name!r}: 1 to {_MAX_CATEGORIES} categories, not {len(categories)}"
        )
    return Column(
        column.name,
        declared.sensitive,
        None if categories is None else tuple(_written(category) for category in categories),
        declared.minimum,
        declared.maximum,
    )


def _written(category: str | float | bool) -> str:
    """Return a category as the gateway writes values: 3.0 as 3."""
    if isinstance(category, float) and category.is_integer():
        return str(int(category))
    return str(category)
