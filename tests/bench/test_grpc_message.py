"""Messages written and read without the protobuf library, against that library."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.ceiling.messages import ModelInferRequest
from bench.grpc_message import infer_answer_head, infer_request, numbers, raw_outputs, with_prefix
from salver.gateway.grpc.schema import message_class


@given(
    shape=st.lists(st.integers(0, 2**40), max_size=4),
    raw=st.binary(max_size=300),
)
def test_requests_read_the_same_everywhere(shape: list[int], raw: bytes) -> None:
    """Salver's and the ceiling's classes read what the bench wrote."""
    message = infer_request("tabular", "features", shape, raw)
    for kind in (message_class("inference.ModelInferRequest"), ModelInferRequest):
        request = kind.FromString(message)
        (tensor,) = request.inputs
        assert (request.model_name, tensor.name, tensor.datatype) == ("tabular", "features", "FP32")
        assert list(tensor.shape) == shape
        assert list(request.raw_input_contents) == [raw]


def test_answers_come_out_by_name() -> None:
    """Outputs are paired with their contents in order, and other fields are passed over."""
    answer = message_class("inference.ModelInferResponse")(model_name="m", id="7")
    answer.outputs.add(name="label", datatype="INT64", shape=[1])
    answer.outputs.add(name="probabilities", datatype="FP32", shape=[1, 2])
    answer.raw_output_contents.extend([struct.pack("<q", -3), struct.pack("<2f", 0.25, 0.75)])
    found = {name: numbers(*pair) for name, pair in raw_outputs(answer.SerializeToString()).items()}
    assert found == {"label": [-3], "probabilities": [0.25, 0.75]}


def test_a_prepared_head_is_what_the_library_writes() -> None:
    """The ceiling's answers begin with the bytes that the library would send."""
    answer = message_class("inference.ModelInferResponse")(model_name="m")
    answer.outputs.add(name="copy", datatype="FP32", shape=[1, 300])
    assert infer_answer_head("m", [("copy", "FP32", (1, 300))]) == answer.SerializeToString()


def test_typed_contents_are_refused() -> None:
    """An answer without raw contents is not taken for an empty one."""
    answer = message_class("inference.ModelInferResponse")(model_name="m")
    answer.outputs.add(name="copy", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
    with pytest.raises(ValueError, match="1 outputs came with 0 raw contents"):
        raw_outputs(answer.SerializeToString())


def test_the_prefix_says_the_length() -> None:
    """Five bytes stand before a message: not compressed, and how long it is."""
    assert with_prefix(b"x" * 258) == b"\0\0\0\1\2" + b"x" * 258
