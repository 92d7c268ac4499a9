"""Do two versions say the same of a request?"""

from typing import NamedTuple

import numpy as np

from salver.core.errors import SalverError
from salver.core.tensor import AnyArray, Tensor

_RELATIVE = 1e-3
_ABSOLUTE = 1e-6
_DIMENSIONS_OF_CLASSES = 2


class Agreement(NamedTuple):
    """How alike two answers are.

    ``agrees`` tells that both name the same classes, or, of a model without classes, values that
    differ by less than a thousandth. ``difference`` is the largest of any number in the outputs.
    """

    agrees: bool
    difference: float


def compare(one: list[Tensor], other: list[Tensor]) -> Agreement:
    """Compare the answers of two versions to one request, or to several in the same order.

    Classes are outputs of whole numbers, texts and truth values; without such an output, where each
    row of real numbers is highest. An output that only one of them has is a disagreement.
    """
    others = {tensor.name: tensor for tensor in other}
    if {tensor.name for tensor in one} != set(others):
        return Agreement(agrees=False, difference=0.0)
    classes: list[bool] = []
    values: list[bool] = []
    difference = 0.0
    for tensor in one:
        mine, its = _array(tensor), _array(others[tensor.name])
        if mine is None or its is None or mine.shape != its.shape:
            return Agreement(agrees=False, difference=difference)
        if np.issubdtype(mine.dtype, np.floating) and np.issubdtype(its.dtype, np.floating):
            difference = max(difference, _difference(mine, its))
            values.append(_close(mine, its))
        else:
            classes.append(bool(np.array_equal(mine, its)))
    return Agreement(all(classes or values), difference)


def _close(mine: AnyArray, its: AnyArray) -> bool:
    if mine.ndim == _DIMENSIONS_OF_CLASSES and mine.shape[1] > 1:
        return bool(np.array_equal(mine.argmax(axis=1), its.argmax(axis=1)))
    return bool(np.allclose(mine, its, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True))


def _difference(mine: AnyArray, its: AnyArray) -> float:
    gaps = np.abs(mine.astype(np.float64) - its.astype(np.float64))
    gaps = gaps[np.isfinite(gaps)]
    return float(gaps.max()) if gaps.size else 0.0


def _array(tensor: Tensor) -> AnyArray | None:
    try:
        return tensor.array()
    except SalverError:
        return None
