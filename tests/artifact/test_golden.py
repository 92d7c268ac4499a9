"""Golden examples: written, read back, compared."""

import numpy as np
import pytest

from salver.artifact.golden import Golden, compare, parse_golden, write_golden
from salver.core.errors import GoldenMismatch, InvalidExample
from salver.core.tensor import Tensor

INPUT = Tensor.from_array("x", np.array([[1.5, 2.5]], np.float32))
TEXT = Tensor.from_array("t", np.array(["ä", "b"], dtype=object))
OUTPUT = Tensor.from_array("y", np.array([1.0, 2.0]))


def test_round_trip() -> None:
    """What is written is read back equal, text included."""
    (example,) = parse_golden(write_golden([Golden([INPUT, TEXT], [OUTPUT], 0.1, 0.2)]))
    assert example.rtol == 0.1
    assert example.atol == 0.2
    for before, after in zip([INPUT, TEXT], example.inputs, strict=True):
        assert bytes(before.buffer) == bytes(after.buffer)


def test_differences_beyond_the_tolerance_are_named() -> None:
    """The error tells which output differs, where, and by what."""
    compare([OUTPUT], {"y": np.array([1.0, 2.0 + 1e-9])}, 1e-6, 1e-6)
    with pytest.raises(GoldenMismatch, match=r"'y' differs at \[1\]"):
        compare([OUTPUT], {"y": np.array([1.0, 2.1])}, 1e-6, 1e-6)
    with pytest.raises(GoldenMismatch, match="shape"):
        compare([OUTPUT], {"y": np.array([1.0])}, 1e-6, 1e-6)
    with pytest.raises(GoldenMismatch, match="no output"):
        compare([OUTPUT], {"z": np.array([1.0])}, 1e-6, 1e-6)
    with pytest.raises(GoldenMismatch, match="differs"):
        compare([TEXT], {"t": np.array([b"x", b"b"], dtype=object)}, 0, 0)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"inputs":[]}', b'{"inputs":[{}],"outputs":[]}']
)
def test_bad_files_are_refused_with_the_line(data: bytes) -> None:
    """A broken line is named by its number."""
    with pytest.raises(InvalidExample):
        parse_golden(data)
