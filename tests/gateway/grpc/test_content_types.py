"""MLServer's content types over gRPC mean what they mean over REST."""

import base64
from typing import Any

import grpc
import numpy as np
import pytest

from salver.core.tensor import encode_bytes
from tests.gateway.grpc.calls import infer, infer_request, outputs_of, refusal

ENCODED = [base64.b64encode(item) for item in (b"\x00\xff", b"plain")]


def said(part: Any, content_type: str) -> None:
    """Say a content type of a request, an input or an output."""
    part.parameters["content_type"].string_param = content_type


def text_request(items: list[bytes], *, raw: bool) -> Any:
    """Return a request of one row for the model of text."""
    array = np.array([items], object)
    return infer_request("identity-bytes", {"x": array}, raw=raw)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("raw", [False, True])
def test_base64_reaches_the_model_as_bytes(
    channel: grpc.Channel, *, raw: bool, whole: bool
) -> None:
    """Raw and typed contents are decoded, whether the request says so or its input."""
    request = text_request(ENCODED, raw=raw)
    said(request if whole else request.inputs[0], "base64")
    answer = infer(channel, request)
    if raw:
        assert answer.raw_output_contents[0] == encode_bytes([b"\x00\xff", b"plain"])
    else:
        assert list(answer.outputs[0].contents.bytes_contents) == [b"\x00\xff", b"plain"]


@pytest.mark.parametrize("raw", [False, True])
def test_an_output_comes_as_it_is_wanted(channel: grpc.Channel, *, raw: bool) -> None:
    """The output is encoded and says so in its parameters."""
    request = text_request([b"a", b"bc"], raw=raw)
    said(request.outputs.add(name="y"), "base64")
    answer = infer(channel, request)
    assert answer.outputs[0].parameters["content_type"].string_param == "base64"
    if raw:
        assert answer.raw_output_contents[0] == encode_bytes([b"YQ==", b"YmM="])
    else:
        assert list(answer.outputs[0].contents.bytes_contents) == [b"YQ==", b"YmM="]


def test_columns_are_put_together_by_name(channel: grpc.Channel) -> None:
    """A frame's columns become the table of the model."""
    columns = {"height": np.array([1.5, 2.5]), "age": np.array([[30], [40]], np.int64)}
    request = infer_request("lenient", columns)
    said(request, "pd")
    assert outputs_of(infer(channel, request))["y"].tolist() == [[30, 1.5], [40, 2.5]]


def test_what_is_not_what_was_said_is_refused(channel: grpc.Channel) -> None:
    """Unknown content types and elements that are none of them are errors of the caller."""
    request = text_request([b"Y"], raw=True)
    said(request, "base64")
    assert refusal(channel, request) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_tensor")
    said(request, "numpy")
    assert refusal(channel, request) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")
