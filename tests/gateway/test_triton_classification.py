"""Outputs as their highest values."""

import math
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from salver.core.datatypes import DTYPES
from salver.core.errors import InvalidTensor
from salver.core.signature import Column, Signature, TensorSpec
from salver.core.tensor import AnyArray, Tensor
from salver.gateway.triton.classification import classified
from salver.wire.messages import EndpointPlan
from tests.gateway.inprocess import (
    RunningServer,
    endpoint,
    exchange_bytes,
    identity_signature,
    post,
    split_reply,
)


def plan(datatype: str, shape: tuple[int, ...], *columns: str) -> EndpointPlan:
    """Return an endpoint whose output has this form."""
    spec = TensorSpec("y", datatype, shape, tuple(map(Column, columns)))
    return endpoint("m", Signature((), (spec,)))


def texts(array: AnyArray, count: int, of: EndpointPlan | None = None) -> Any:
    """Return what an output becomes, as nested lists of text."""
    (tensor,) = classified([Tensor.from_array("y", array)], {"y": count}, of, "m:1")
    assert tensor.datatype == "BYTES"
    tensor.check()
    found = tensor.array()
    decoded = np.array([item.decode() for item in found.ravel()], object)
    return decoded.reshape(found.shape).tolist()


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_gets_classes(server: RunningServer, binary: bool) -> None:
    """Each row's highest values come as value, index and label, as binary and as JSON."""
    rows = np.array([[0.25, 0.5, -1], [3, 2, 1]], np.float32)
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        item = tritonclient.http.InferInput("x", [2, 3], "FP32")
        item.set_data_from_numpy(rows)
        wanted = tritonclient.http.InferRequestedOutput("y", binary_data=binary, class_count=2)
        result = client.infer("labelled", [item], outputs=[wanted])
        assert result.get_output("y")["datatype"] == "BYTES"
        found = result.as_numpy("y")
        assert found.shape == (2, 2)
        plain = [one.decode() if isinstance(one, bytes) else one for one in found.ravel()]
        assert plain == ["0.5:1:pear", "0.25:0:apple", "3.0:0:apple", "2.0:1:pear"]


def test_without_names_there_are_no_labels(server: RunningServer) -> None:
    """A model whose columns have no names gives value and index; more classes give all."""
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        item = tritonclient.http.InferInput("x", [1, 4], "INT64")
        item.set_data_from_numpy(np.array([[1, 5, 10, 4]]))
        wanted = tritonclient.http.InferRequestedOutput("y", class_count=9)
        found = client.infer("identity-int64", [item], outputs=[wanted]).as_numpy("y")
        assert found.tolist() == [[b"10:2", b"5:1", b"4:3", b"1:0"]]


def test_one_output_as_classes_beside_another_as_it_is(server: RunningServer) -> None:
    """Only who asks for classes gets text, as it was said last; rows of one value are a class."""
    item = {"shape": [2], "datatype": "FP32"}
    body = {
        "inputs": [{"name": "a", **item, "data": [1, 2]}, {"name": "b", **item, "data": [3, 5]}],
        "outputs": [
            {"name": "sum", "parameters": {"classification": 2}},
            {"name": "difference", "parameters": {"classification": 1}},
            {"name": "sum", "parameters": {"classification": 0}},
        ],
    }
    request = post("/v2/models/two/infer", orjson.dumps(body))
    _, _, answer = split_reply(exchange_bytes(server.port, request))
    total, difference = orjson.loads(answer)["outputs"]
    assert difference == {
        "name": "difference", "datatype": "BYTES", "shape": [2, 1], "data": ["-2.0:0", "-3.0:0"]
    }  # fmt: skip
    assert total["data"] == [4, 7]


@pytest.mark.parametrize("count", [-1, 1.5, "2", True, None, [1]])
def test_a_bad_count_is_refused(server: RunningServer, count: Any) -> None:
    """Anything but a whole number has a code and the name of the output."""
    item = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    wanted = {"name": "y", "parameters": {"classification": count}}
    request = post(
        "/v2/models/labelled/infer", orjson.dumps({"inputs": [item], "outputs": [wanted]})
    )
    status, _, answer = split_reply(exchange_bytes(server.port, request))
    assert (status, orjson.loads(answer)["code"]) == (400, "invalid_request")
    assert "'y'" in orjson.loads(answer)["error"]


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_only_numbers_have_classes(server: RunningServer, datatype: str) -> None:
    """Text and booleans are refused by name."""
    given = np.array([[b"a"]], object) if datatype == "BYTES" else np.array([[True]])
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        item = tritonclient.http.InferInput("x", [1, 1], datatype)
        item.set_data_from_numpy(given)
        wanted = tritonclient.http.InferRequestedOutput("y", class_count=1)
        with pytest.raises(InferenceServerException, match="only numbers") as error:
            client.infer(f"identity-{datatype.lower()}", [item], outputs=[wanted])
        assert error.value.status() == "400"


def test_equal_values_and_nan() -> None:
    """Of equal values the first leads; NaN comes last, behind minus infinity's index or before."""
    assert texts(np.array([[1.0, 2.0, 2.0, 1.0]]), 4) == [["2.0:1", "2.0:2", "1.0:0", "1.0:3"]]
    assert texts(np.array([[math.nan, 1.0, math.inf]]), 3) == [["inf:2", "1.0:1", "nan:0"]]


def test_shapes() -> None:
    """The last axis has the classes, unless it is the batch."""
    assert texts(np.array(7), 3) == ["7:0"]
    for kind in (np.float16, np.float32, np.float64):
        assert texts(np.array([[0.1, 0.9]], kind), 2) == [["0.9:1", "0.1:0"]]
    assert texts(np.array([4, 9]), 1) == ["9:1"]
    assert texts(np.array([4, 9]), 1, plan("INT64", (2,))) == ["9:1"]
    assert texts(np.array([4, 9]), 1, plan("INT64", (-1,))) == [["4:0"], ["9:0"]]
    assert texts(np.zeros((2, 0), np.int64), 1) == [[], []]
    assert texts(np.zeros((0, 2), np.int64), 1) == []
    cube = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    assert texts(cube, 1) == [[["1:1"], ["3:1"]], [["5:1"], ["7:1"]]]


def test_labels_need_a_name_for_each_class() -> None:
    """Where the columns are not as many as the classes, no label is guessed."""
    row = np.array([[1, 2, 3]])
    assert texts(row, 1, plan("INT64", (-1, 3), "a", "b", "c")) == [["3:2:c"]]
    assert texts(row, 1, plan("INT64", (-1, -1), "a", "b")) == [["3:2"]]
    assert texts(row, 1, endpoint("other", identity_signature("INT64"))) == [["3:2"]]


def test_the_classes_of_one_output_are_bounded() -> None:
    """So many texts are written and no more, however they come together."""
    assert len(texts(np.zeros((1, 70_000), np.uint8), 65_536)[0]) == 65_536
    for shape, count in (((1, 70_000), 65_537), ((65_537, 2), 1), ((32_769, 2), 2)):
        with pytest.raises(InvalidTensor, match="ask for fewer"):
            texts(np.zeros(shape, np.uint8), count)


def test_other_outputs_pass() -> None:
    """An output that nobody wants classified is the same object."""
    tensor = Tensor.from_array("z", np.array([b"a"], object))
    assert classified([tensor], {"y": 1}, None, "m:1") == [tensor]
    with pytest.raises(InvalidTensor, match="'z' is BYTES"):
        classified([tensor], {"z": 1}, None, "m:1")


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([name for name in DTYPES if name != "BOOL"]),
    st.integers(1, 6),
    st.integers(1, 8),
    st.data(),
)
def test_they_are_the_highest_of_every_datatype(
    datatype: str, width: int, count: int, data: st.DataObject
) -> None:
    """Values fall, each is that of its index to the last digit, and none left out is higher."""
    dtype: Any = DTYPES[datatype]
    if dtype.kind == "f":
        element: Any = st.floats(allow_nan=False, width=8 * dtype.itemsize)
    else:
        limits = np.iinfo(dtype)
        element = st.integers(int(limits.min), int(limits.max))
    row = np.array([data.draw(st.lists(element, min_size=width, max_size=width))], dtype)
    (found,) = texts(row, count)
    assert len(found) == min(width, count)
    indices = []
    for text in found:
        value, index = text.split(":")
        indices.append(int(index))
        assert dtype.type(value) == row[0][int(index)]
    assert len(set(indices)) == len(indices)
    kept = [row[0][index] for index in indices]
    assert kept == sorted(row[0].tolist(), reverse=True)[: len(kept)]
