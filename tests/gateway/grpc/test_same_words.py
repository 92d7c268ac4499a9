"""A mistake is told in the same words over REST and over gRPC."""

from typing import Any
from urllib.parse import quote

import grpc
import orjson
import pytest

from salver.core.context import Principal
from salver.core.errors import Forbidden, InvalidName
from salver.gateway.auth import check_access
from salver.gateway.statuses import STATUSES
from tests.gateway.grpc.calls import SERVICE, message, refused_words
from tests.gateway.grpc.test_calls import WRONG
from tests.gateway.inprocess import RunningServer, exchange_bytes, post, split_reply

# What differs, and why; a case that becomes the same has to leave the list.
OTHER: dict[str, str] = {
    "raw contents for nobody": "over REST no bytes are nobody's, as each input says its size",
    "both kinds of contents": "over REST the size says which, and the values are not read",
    "no contents": "an input of a message has values, if only none; JSON lacks them",
    "no name": "a message cannot tell an empty name from none; JSON can, and it is unknown there",
}
MOST_CHARS = 1024


def over_rest(port: int, request: Any) -> tuple[int, str, str]:
    """Ask over REST what a message asks; returns status, code and text."""
    raw, sizes = list(request.raw_input_contents), []
    inputs: list[dict[str, Any]] = []
    for index, item in enumerate(request.inputs):
        head = {"name": item.name, "shape": list(item.shape), "datatype": item.datatype}
        if item.HasField("contents"):
            head["data"] = list(item.contents.fp32_contents)
        if index < len(raw):
            sizes.append(len(raw[index]))
            head["parameters"] = {"binary_data_size": sizes[-1]}
        inputs.append(head)
    document: dict[str, Any] = {"inputs": inputs}
    if request.outputs:
        document["outputs"] = [{"name": output.name} for output in request.outputs]
    text, version = orjson.dumps(document), request.model_version
    path = f"/v2/models/{quote(request.model_name)}" + f"/versions/{version}" * bool(version)
    length = f"Inference-Header-Content-Length: {len(text)}"
    reply = exchange_bytes(port, post(f"{path}/infer", text + b"".join(raw), length))
    status, _, body = split_reply(reply)
    answer = orjson.loads(body)
    return status, answer.get("code", ""), answer.get("error", "")


@pytest.mark.parametrize("case", WRONG)
def test_each_mistake_has_one_code_and_one_text(
    server: RunningServer, channel: grpc.Channel, case: str
) -> None:
    """Both doors tell the same, in at most 1,024 characters, but for what is listed."""
    request, _, code = WRONG[case]
    called = refused_words(channel, f"{SERVICE}/ModelInfer", request)
    status, *told = over_rest(server.port, request)
    assert called[0] == code
    assert len(called[1]) <= MOST_CHARS
    if case in OTHER:
        assert tuple(told) != called, "it is no exception any more"
        return
    assert tuple(told) == called
    assert status == STATUSES[code].http


def test_the_fix_outlives_what_is_echoed(server: RunningServer) -> None:
    """Of a long text the middle is left out, so that it ends with what to do."""
    request, _, _ = WRONG["a long input"]
    _, _, text = over_rest(server.port, request)
    assert text.startswith("unknown input 'xxx")
    assert text.endswith("; the model takes x")
    assert " … " in text


@pytest.mark.parametrize("name", ["ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics"])
def test_calls_about_a_model_know_what_none_is_called(channel: grpc.Channel, name: str) -> None:
    """A name that no endpoint can have is that, and one that none has is not found."""
    for model, code in (("a b", "invalid_name"), ("none", "endpoint_not_found")):
        request = message(f"{name}Request", name=model)
        assert refused_words(channel, f"{SERVICE}/{name}", request)[0] == code


def test_a_key_changes_nothing_about_names() -> None:
    """A caller who may ask some endpoints is told of a bad name, and forbidden others."""
    principal = Principal("someone", endpoints=frozenset({"mine"}))
    check_access(principal, "mine")
    with pytest.raises(Forbidden):
        check_access(principal, "other")
    with pytest.raises(InvalidName):
        check_access(principal, "m" * 5000)
