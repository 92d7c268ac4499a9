"""Tensors are bytes with a name, a datatype and a shape that agree."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
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


@given(
    st.lists(st.sampled_from(["", "é", b"", b"abc"]), min_size=1, max_size=4),
    st.integers(60, 9000),
)
@settings(max_examples=20, deadline=None)
def test_many_texts_come_back(kinds: list[str | bytes], count: int) -> None:
    """So many elements that they are joined in pieces, of one length or several, survive too."""
    items = [kinds[index % len(kinds)] for index in range(count)]
    expected = [item.encode() if isinstance(item, str) else item for item in items]
    data = encode_bytes(items)
    assert data == b"".join(struct.pack("<I", len(item)) + item for item in expected)
    Tensor("x", "BYTES", (count,), data).check()
    assert decode_bytes(data, count).tolist() == expected
    for wrong in (data[:-1], data + b"\0\0\0\0", data[:-1] + b"\xff\xff"):
        with pytest.raises(InvalidTensor):
            Tensor("x", "BYTES", (count,), wrong).check()


@pytest.mark.parametrize("item", ["", b"", "text"])
def test_joining_texts_takes_little_memory(item: str | bytes) -> None:
    """Beside the joined bytes, nothing grows with the number of elements."""
    items = [item] * 500_000
    tracemalloc.start()
    try:
        data = encode_bytes(items)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * len(data) + 2 * 1024 * 1024


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


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65])
@pytest.mark.parametrize("kind", [(str,), (bytes,), (str, bytes), (np.str_,)])
def test_few_elements_are_joined_as_many_are(count: int, kind: tuple[type, ...]) -> None:
    """A number of elements that is joined one by one gives the same bytes, or the same refusal."""
    texts = ["é" * (number % 5) for number in range(count)]
    items = [
        text.encode() if kind[number % len(kind)] is bytes else kind[number % len(kind)](text)
        for number, text in enumerate(texts)
    ]
    plain = b"".join(len(one.encode()).to_bytes(4, "little") + one.encode() for one in texts)
    assert encode_bytes(items) == plain
    with pytest.raises(InvalidTensor, match="is int; send text or bytes"):
        encode_bytes([*items[:-1], 1])
