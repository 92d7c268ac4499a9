"""Tensors are bytes with a name, a datatype and a shape that agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.core.datatypes import DTYPES
from salver.core.errors import InvalidTensor
from salver.core.tensor import Tensor, decode_bytes, encode_bytes


@given(
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(max_dims=3, max_side=4))
    )
)
def test_arrays_come_back(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> None:
    """Every fixed-size datatype survives the way to bytes and back."""
    tensor = Tensor.from_array("x", array)
    tensor.check()
    np.testing.assert_array_equal(tensor.array(), array)


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_texts_come_back(items: list[bytes]) -> None:
    """BYTES elements of any content and length survive."""
    assert decode_bytes(encode_bytes(items), len(items)).tolist() == items


@given(st.binary(max_size=60), st.integers(0, 5))
def test_any_bytes_are_decoded_or_refused(data: bytes, count: int) -> None:
    """Malformed BYTES are InvalidTensor, never a read past the end."""
    try:
        items = decode_bytes(data, count)
    except InvalidTensor:
        return
    assert encode_bytes(items.tolist()) == data


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("x", "FP32", (2,), b"1234"),
        Tensor("x", "FP32", (-1,), b"1234"),
        Tensor("x", "FP32", (2**40, 2**40, 0), b"1"),
        Tensor("x", "FP8", (1,), b"1"),
        Tensor("x", "BYTES", (2,), b"\0\0\0\0"),
        Tensor("x", "BYTES", (0,), b"\0\0\0\0"),
    ],
)
def test_disagreement_is_refused(tensor: Tensor) -> None:
    """Sizes are compared in unbounded integers before anything is read."""
    with pytest.raises(InvalidTensor):
        tensor.check()


def test_values_do_not_show_in_its_text() -> None:
    """A tensor in a log line shows its form only."""
    assert "42" not in repr(Tensor.from_array("x", np.array([42.0])))


def test_foreign_dtypes_are_refused() -> None:
    """Complex numbers and dates have no datatype."""
    for array in (np.array([1j]), np.array(["2020-01-01"], dtype="datetime64[D]")):
        with pytest.raises(InvalidTensor):
            Tensor.from_array("x", array)
