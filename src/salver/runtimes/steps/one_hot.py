"""Turns categories into columns of zeros and a one."""

from typing import Literal

import msgspec
import numpy as np

from salver.core.errors import InvalidSteps, InvalidTensor
from salver.core.signature import VARIABLE, Column, TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import (
    Bound,
    Given,
    constant,
    is_text,
    one_value,
    text_of,
    values_at,
    without,
)

_MAX_CATEGORIES = 10_000
_SHOWN = 40


class OneHot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``columns`` maps columns to their categories, in the order of the columns made of them.

    A column becomes a tensor of its name, FP32 ``[rows, categories]``, with columns
    ``NAME=CATEGORY``. A category that is not listed is all zeros, or with ``unknown: refuse`` the
    caller's error.
    """

    columns: dict[str, tuple[str | int | float | bool, ...]]
    unknown: Literal["zeros", "refuse"] = "zeros"

    def bind(self, given: Given) -> Bound:
        """Fit the step; see ``Step``."""
        specs = given.specs
        places = {name: one_value(specs, name) for name in self.columns}
        after = without(specs, *(at.tensor for at in places.values() if at.position is None))
        tables: dict[str, dict[object, int]] = {}
        for name, categories in self.columns.items():
            tables[name] = _table(name, categories, specs[places[name].tensor])
            columns = tuple(Column(f"{name}={category}") for category in categories)
            after[name] = TensorSpec(name, "FP32", (VARIABLE, len(categories)), columns)
        kept = [name for name in after if name not in self.columns]

        def apply(batch: Batch) -> Batch:
            made = {name: batch[name] for name in kept}
            for name, table in tables.items():
                made[name] = self._encoded(name, values_at(batch, places[name]), table)
            return made

        return Bound(after, apply)

    def _encoded(self, name: str, values: AnyArray, table: dict[object, int]) -> AnyArray:
        items = values.tolist()
        positions = np.array([table.get(text_of(item), -1) for item in items], np.intp)
        if self.unknown == "refuse" and (positions < 0).any():
            strange = items[int(np.argmax(positions < 0))]
            shown = strange.decode(errors="replace") if isinstance(strange, bytes) else strange
            raise InvalidTensor(f"column {name!r}: {str(shown)[:_SHOWN]!r} is no known category")
        encoded = np.zeros((len(items), len(table)), np.float32)
        rows = np.flatnonzero(positions >= 0)
        encoded[rows, positions[rows]] = 1
        return encoded


def _table(name: str, categories: tuple[str | float, ...], spec: TensorSpec) -> dict[object, int]:
    """Return the position of each category as the tensor holds it."""
    if not 0 < len(categories) <= _MAX_CATEGORIES:
        raise InvalidSteps(f"{name!r}: 1 to {_MAX_CATEGORIES} categories, not {len(categories)}")
    text = is_text(spec)
    table: dict[object, int] = {}
    for at, category in enumerate(categories):
        if isinstance(category, str) is not text:
            raise InvalidSteps(
                f"{name!r} holds {'text' if text else 'numbers'}, a category does not"
            )
        held = (
            text_of(category)
            if isinstance(category, str)
            else constant(name, category, spec.datatype)
        )
        if held in table:
            raise InvalidSteps(f"{name!r}: a category is given twice, as {spec.datatype}")
        table[held] = at
    return table
