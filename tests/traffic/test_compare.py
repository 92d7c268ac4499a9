"""Two versions say the same, or they do not."""

import numpy as np
import pytest

from salver.core.tensor import Tensor, encode_bytes
from salver.traffic.compare import Agreement, compare


def real(name: str, *values: object) -> Tensor:
    """Return an output of real numbers."""
    return Tensor.from_array(name, np.array(values, np.float32))


def texts(*values: str) -> Tensor:
    """Return an output of texts."""
    return Tensor("label", "BYTES", (len(values),), encode_bytes(list(values)))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([real("y", 1.0)], [real("y", 1.0005)], True),
        ([real("y", 1.0)], [real("y", 1.01)], False),
        ([real("y", [0.4, 0.6])], [real("y", [0.1, 0.9])], True),
        ([real("y", [0.4, 0.6])], [real("y", [0.6, 0.4])], False),
        ([texts("a"), real("y", [0.4, 0.6])], [texts("a"), real("y", [0.6, 0.4])], True),
        ([texts("a"), real("y", 1.0)], [texts("b"), real("y", 1.0)], False),
        ([real("y", 1.0)], [real("z", 1.0)], False),
        ([real("y", 1.0)], [real("y", 1.0, 2.0)], False),
        ([real("y", float("nan"))], [real("y", float("nan"))], True),
        ([real("y", 1.0)], [Tensor("y", "FP32", (9,), b"")], False),
    ],
)
def test_agreement(one: list[Tensor], other: list[Tensor], *, expected: bool) -> None:
    """Classes decide where there are any, else values within a thousandth."""
    assert compare(one, other).agrees is expected
    assert compare(other, one).agrees is expected


def test_the_difference_is_the_largest_number() -> None:
    """What is no number does not count."""
    one = [real("a", 1.0, 2.0), real("b", float("inf"))]
    other = [real("a", 1.25, 2.0), real("b", 1.0)]
    assert compare(one, other) == Agreement(agrees=False, difference=0.25)
