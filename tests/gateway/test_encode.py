"""Answers as JSON: many at once and each alone are the same bytes."""

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.core.datatypes import DTYPES
from salver.core.errors import NonFiniteOutput
from salver.core.request import JointResponse
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.gateway.oip.encode import encode_joint, encode_json


def stacked(arrays: list[Any], rows: int, count: int) -> JointResponse:
    """Return arrays as the outputs of one joint response."""
    tensors = [Tensor.from_array(f"y{i}", array) for i, array in enumerate(arrays)]
    return JointResponse(tensors, rows, [Timing()] * count)


@given(
    data=st.data(),
    count=st.integers(1, 6),
    rows=st.integers(1, 3),
    rests=st.lists(st.lists(st.integers(0, 3), max_size=2), min_size=1, max_size=3),
)
def test_joint_is_each_alone(
    data: st.DataObject, count: int, rows: int, rests: list[list[int]]
) -> None:
    """For every datatype and shape, also without elements and with several outputs."""
    arrays = []
    for rest in rests:
        dtype = data.draw(st.sampled_from([*DTYPES.values()]))
        finite: Any = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
        elements = hnp.from_dtype(dtype, **finite)
        shape = (count * rows, *rest)
        arrays.append(data.draw(hnp.arrays(dtype, shape, elements=elements)))
    response = stacked(arrays, rows, count)
    texts = encode_joint(response)
    assert len(texts) == count
    for index, text in enumerate(texts):
        assert b"{" + text == encode_json(b"{", response.alone(index).outputs)
        orjson.loads(b'{"outputs":[' + text)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_json_lacks_refuses_the_whole(bad: float) -> None:
    """The caller then answers each alone, so that the others get theirs."""
    array = np.zeros((4, 2), np.float32)
    array[2, 1] = bad
    with pytest.raises(NonFiniteOutput):
        encode_joint(stacked([array], 1, 4))
    array[2, 1] = 0
    assert len(encode_joint(stacked([array], 1, 4))) == 4
