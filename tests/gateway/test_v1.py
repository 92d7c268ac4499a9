"""KServe's V1 protocol and TensorFlow Serving's REST API: predictions over real connections."""

import base64
import gzip
import http.client
import math
import socket
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core.context import RequestContext
from salver.core.handler import Responder
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.settings import HttpSettings
from salver.core.tensor import AnyArray, Tensor
from tests.gateway.inprocess import (
    DATATYPES,
    RunningServer,
    exchange_bytes,
    post,
    read_all,
    split_reply,
)
from tests.gateway.test_oip import sample

Reply = tuple[int, dict[str, str], Any]


def predict(server: RunningServer, model: str, document: Any, *headers: str) -> Reply:
    """Ask for predictions; returns status, headers and document."""
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return send(server, post(f"/v1/models/{model}:predict", body, *headers))


def send(server: RunningServer, request: bytes) -> Reply:
    """Send one request; returns status, headers and document."""
    status, headers, body = split_reply(exchange_bytes(server.port, request))
    return status, headers, orjson.loads(body)


def as_json(array: AnyArray) -> Any:
    """Return the values as they are written in JSON."""
    if array.dtype != object:
        return orjson.loads(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))
    return [[item.decode() for item in row] for row in array]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_in_rows_and_columns(server: RunningServer, datatype: str) -> None:
    """A model with one input takes its values without a name, and gives them back the same way."""
    if datatype == "FP16":
        values: Any = [[0, -1.5, 65504], [0.25, 3, 1]]
    else:
        values = as_json(sample(datatype))
    model = f"identity-{datatype.lower()}"
    assert predict(server, model, {"instances": values})[2] == {"predictions": values}
    assert predict(server, model, {"inputs": values})[2] == {"outputs": values}
    named = [{"x": row} for row in values]
    assert predict(server, model, {"instances": named})[2] == {"predictions": values}
    assert predict(server, model, {"inputs": {"x": values}})[2] == {"outputs": values}


def test_several_inputs_and_outputs_are_named(server: RunningServer) -> None:
    """Rows are objects of inputs and answered by objects of outputs; so are columns."""
    rows = [{"a": 3, "b": 1}, {"b": 2, "a": 5}]
    status, _, answer = predict(server, "two", {"instances": rows})
    assert status == 200
    expected = [{"sum": 4, "difference": 2}, {"sum": 7, "difference": 3}]
    assert answer == {"predictions": expected}
    _, _, answer = predict(server, "two", {"inputs": {"a": [3, 5], "b": [1, 2]}})
    assert answer == {"outputs": {"sum": [4, 7], "difference": [2, 3]}}


TABLE = [[30, 1.5], [40, 2.5]]
TABLE_FORMS: list[Any] = [
    {"instances": TABLE},
    {"instances": [{"x": row} for row in TABLE]},
    {"instances": [{"age": age, "height": height} for age, height in TABLE]},
    {"instances": [{"height": height, "age": age} for age, height in TABLE]},
    {"inputs": TABLE},
    {"inputs": {"x": TABLE}},
    {"inputs": {"height": [1.5, 2.5], "age": [30, 40]}},
]


@pytest.mark.parametrize("document", TABLE_FORMS)
def test_tables_take_rows_and_their_columns_names(server: RunningServer, document: Any) -> None:
    """One table input may be given whole, or by the names of its columns in any order."""
    status, _, answer = predict(server, "strict", document)
    assert (status, list(answer.values())) == (200, [TABLE])


def test_bytes_are_text_or_base64(server: RunningServer) -> None:
    """Bytes come as text or as base64; what is not UTF-8 is answered as base64."""
    raw = {"b64": base64.b64encode(b"\xff\x00").decode()}
    rows = [["text", {"b64": base64.b64encode("ä€".encode()).decode()}], [raw, ""]]
    _, _, answer = predict(server, "identity-bytes", {"instances": rows})
    assert answer == {"predictions": [["text", "ä€"], [raw, ""]]}
    _, _, answer = predict(server, "identity-bytes", {"inputs": rows})
    assert answer == {"outputs": [["text", "ä€"], [raw, ""]]}


def test_identity_of_an_answer(server: RunningServer) -> None:
    """Salver's request id and the variant are in the headers, on a version's path as well."""
    seen = set()
    for model in ("two", "two/versions/1", "%74wo"):
        status, headers, _ = predict(server, model, {"instances": [{"a": 1, "b": 1}]})
        assert (status, headers["x-salver-variant"]) == (200, "two:1")
        assert headers["content-type"] == "application/json"
        seen.add(headers["x-salver-request-id"])
    assert len(seen) == 3
    status, headers, answer = predict(server, "two/versions/7", {"instances": [{}]})
    assert (status, answer["code"]) == (404, "version_not_found")
    assert answer["request_id"] == headers["x-salver-request-id"]


def test_compression(server: RunningServer) -> None:
    """A compressed body is read, and the answer is compressed when the client asks for it."""
    body = gzip.compress(orjson.dumps({"instances": [[1, 2]]}))
    lines = ("Content-Encoding: gzip", "Accept-Encoding: gzip")
    request = post("/v1/models/identity-fp32:predict", body, *lines)
    status, headers, answer = split_reply(exchange_bytes(server.port, request))
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert orjson.loads(gzip.decompress(answer)) == {"predictions": [[1, 2]]}


def test_parameters_mean_what_they_mean_on_v2(server: RunningServer) -> None:
    """Parameters reach the model, set the deadline, and are refused when they are none."""
    rows = {"instances": [[1, 2]]}
    for parameters, status, code in (
        ({"fail": True}, 500, "model_failed"),
        ({"timeout": -1}, 400, "invalid_request"),
        ([], 400, "invalid_request"),
    ):
        reply = predict(server, "identity-fp32", {**rows, "parameters": parameters})
        assert (reply[0], reply[2]["code"]) == (status, code)
    server.computer.contexts.clear()
    predict(server, "identity-fp32", {**rows, "parameters": {"timeout": 5_000_000}})
    (context,) = server.computer.contexts
    assert context.deadline_ns - context.arrival_ns == 5_000_000_000


def test_chunks_of_a_stream_are_one_answer(server: RunningServer) -> None:
    """A streaming model's chunks are joined, and must be as many as the instances in rows."""
    document: Any = {"instances": [[1], [1]], "parameters": {"chunks": "2,2"}}
    assert predict(server, "identity-fp32", document)[2] == {"predictions": [[1, 1], [1, 1]]}
    document["parameters"]["chunks"] = "2,2,2"
    status, _, answer = predict(server, "identity-fp32", document)
    assert (status, answer["code"]) == (400, "invalid_request")
    document["inputs"] = document.pop("instances")
    assert predict(server, "identity-fp32", document)[2] == {"outputs": [[1, 1]] * 3}


def test_declared_ranges_follow_the_policy(server: RunningServer) -> None:
    """A value outside its range is refused, or answered with the warning beside it."""
    document = {"instances": [{"age": 130, "height": 1}]}
    status, _, answer = predict(server, "strict", document)
    assert (status, answer["code"]) == (422, "value_rejected")
    status, _, answer = predict(server, "lenient", document)
    assert (status, answer["predictions"]) == (200, [[130, 1]])
    assert "'age'" in answer["parameters"]["salver_out_of_range"]


DEEP = b'{"instances":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
ONE_ROW: Any = {"instances": [[1, 2]]}
REFUSED: list[tuple[str, Any, str, str]] = [
    ("identity-fp32", b"", "invalid_json", "not JSON"),
    ("identity-fp32", b'{"instances":[[NaN]]}', "invalid_json", "not JSON"),
    ("identity-fp32", b'{"instances":[["\xff"]]}', "invalid_json", "not JSON"),
    ("identity-fp32", DEEP, "invalid_json", "not JSON"),
    ("identity-fp32", [], "invalid_request", "object"),
    ("identity-fp32", {}, "invalid_request", "'instances'"),
    ("identity-fp32", {**ONE_ROW, "inputs": [[1]]}, "invalid_request", "'instances'"),
    ("identity-fp32", {"instances": []}, "invalid_request", "at least one"),
    ("identity-fp32", {"instances": 5}, "invalid_request", "list"),
    ("identity-fp32", {"instances": None}, "invalid_request", "list"),
    ("identity-fp32", {**ONE_ROW, "signature_name": "other"}, "invalid_request", "'other'"),
    ("identity-fp32", {**ONE_ROW, "signature_name": []}, "invalid_request", "signature"),
    ("identity-fp32", {"instances": [1, 2]}, "invalid_tensor", "the values make [2]"),
    ("identity-fp32", {"instances": [[[1, 2]]]}, "invalid_tensor", "make [1, 1, 2]"),
    ("identity-fp32", {"instances": [[1, 2], [3]]}, "invalid_tensor", "unequal length"),
    ("identity-fp32", {"instances": [[1, 2], 3]}, "invalid_tensor", "beside values"),
    ("identity-fp32", {"instances": [[1, [2]]]}, "invalid_tensor", "beside values"),
    ("identity-fp32", {"instances": [[1, "2"]]}, "invalid_tensor", "str"),
    ("identity-fp32", {"instances": [[1, None]]}, "invalid_tensor", "NoneType"),
    ("identity-fp32", {"instances": [[1, True]]}, "invalid_tensor", "bool"),
    ("identity-fp32", {"instances": [[1, {"b64": "AA=="}]]}, "invalid_tensor", "dict"),
    ("identity-fp32", {"instances": [[1e39]]}, "invalid_tensor", "fit"),
    ("identity-fp32", {"inputs": 1}, "invalid_tensor", "make []"),
    ("identity-fp32", {"inputs": {}}, "missing_input", "'x'"),
    ("identity-fp32", {"instances": [{"z": [1]}]}, "unknown_input", "'z'"),
    ("identity-int64", {"instances": [[1.5]]}, "invalid_tensor", "float"),
    ("identity-int8", {"instances": [[300]]}, "invalid_tensor", "fit"),
    ("identity-bytes", {"instances": [[1]]}, "invalid_tensor", "int"),
    ("identity-bytes", {"instances": [[{"b64": "*"}]]}, "invalid_tensor", "base64"),
    ("identity-bytes", {"instances": [[{"b64": "ä"}]]}, "invalid_tensor", "base64"),
    ("identity-bytes", {"instances": [[{"b64": 5}]]}, "invalid_tensor", "dict"),
    ("two", {"instances": [1, 2]}, "invalid_request", "'a', 'b'"),
    ("two", {"instances": [[1, 2], [3]]}, "invalid_request", "'a', 'b'"),
    ("two", {"instances": [{"a": 1}]}, "missing_input", "'b'"),
    ("two", {"instances": [{"a": 1, "b": 2}, {"a": 1}]}, "missing_input", "instance 2"),
    ("two", {"instances": [{"a": 1, "b": 2}, {"a": 1, "b": 1, "c": 1}]}, "unknown_input", "'c'"),
    ("two", {"instances": [{"a": 1, "b": 2}, 5]}, "invalid_tensor", "instance 2"),
    ("two", {"inputs": [1, 2]}, "invalid_request", "'a', 'b'"),
    ("two", {"inputs": {"a": [1], "b": [2], "c": [3]}}, "unknown_input", "'c'"),
    ("strict", {"instances": [{"age": 1}]}, "missing_input", "'height'"),
    ("strict", {"instances": [{"age": 1, "height": 1, "w": 1}]}, "unknown_input", "'w'"),
    ("strict", {"instances": [{"age": "x", "height": 1}]}, "invalid_tensor", "'age'"),
    ("strict", {"instances": [{"x": [1, 2], "age": 1}]}, "invalid_request", "'age'"),
    ("strict", {"instances": [[1, 2, 3]]}, "invalid_tensor", "make [1, 3]"),
    ("strict", {"inputs": {"age": [1, 2], "height": [1]}}, "invalid_tensor", "equally long"),
    ("strict", {"inputs": {"age": 1, "height": 1}}, "invalid_tensor", "list"),
]


@pytest.mark.parametrize(("model", "document", "code", "words"), REFUSED)
def test_wrong_bodies_are_refused_with_a_reason(
    server: RunningServer, model: str, document: Any, code: str, words: str
) -> None:
    """What does not fit the model or the protocol is a 400 that says what is wrong."""
    status, headers, answer = predict(server, model, document)
    assert (status, answer["code"]) == (400, code)
    assert words in answer["error"]
    assert set(answer) == {"error", "code", "request_id"}
    assert headers["x-salver-request-id"] == answer["request_id"]


def test_limits() -> None:
    """JSON that is too long, too many tensors and too many dimensions are refused."""
    limits = HttpSettings(max_json_bytes=100, max_tensors=1, max_dimensions=3)
    with RunningServer(limits) as server:
        for model, instances, expected, words in (
            ("identity-fp32", [[1] * 100], (413, "body_too_large"), "limit of 100"),
            ("two", [{"a": 1, "b": 1}], (400, "invalid_request"), "limit of 1"),
            ("identity-fp32", [[[[[[1]]]]]], (400, "invalid_tensor"), "more than 3 dimensions"),
        ):
            status, _, answer = predict(server, model, {"instances": instances})
            assert (status, answer["code"]) == expected
            assert words in answer["error"]
        assert predict(server, "identity-fp32", {"instances": [[1]]})[0] == 200


class Fixed:
    """Handler that answers everybody with the same outputs."""

    def __init__(self, **outputs: AnyArray) -> None:
        self.outputs = outputs

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Answer."""
        tensors = [Tensor.from_array(name, array) for name, array in self.outputs.items()]
        responder.send(InferenceResponse(tensors))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_outputs_are_a_coded_error(value: float) -> None:
    """NaN and infinity are no JSON: the answer is the error that /v2 gives."""
    with RunningServer(last=Fixed(y=np.array([[1, value]], np.float32))) as server:
        for key in ("instances", "inputs"):
            status, _, answer = predict(server, "identity-fp32", {key: [[1, 2]]})
            assert (status, answer["code"]) == (500, "non_finite_output")
            assert "'y'" in answer["error"]


def test_outputs_without_rows_need_columns() -> None:
    """Outputs that are not one row for each instance are refused in rows, answered in columns."""
    outputs: list[AnyArray] = [np.array(0.1, np.float32), np.zeros((3, 0)), np.ones(2, bool)]
    for output in outputs:
        with RunningServer(last=Fixed(y=output, z=np.ones(1))) as server:
            status, _, answer = predict(server, "identity-fp32", {"instances": [[1]]})
            assert (status, answer["code"]) == (400, "invalid_request")
            assert "'y'" in answer["error"]
            _, _, answer = predict(server, "identity-fp32", {"inputs": [[1]]})
            expected = 0.1 if output.ndim == 0 else output.tolist()
            assert answer == {"outputs": {"y": expected, "z": [1]}}


def test_outputs_of_every_shape_stand_beside_one_another() -> None:
    """Scalars, lists, empty lists, nested lists and bytes of one row are one object."""
    outputs = Fixed(
        scalar=np.array([0.1, 2], np.float32),
        flag=np.array([True, False]),
        none=np.zeros((2, 0), np.int64),
        nested=np.arange(8, dtype=np.uint8).reshape(2, 2, 2),
        picture_bytes=np.array([b"a", b"b"], dtype=object),
    )
    with RunningServer(last=outputs) as server:
        _, _, answer = predict(server, "identity-fp32", {"instances": [[1], [2]]})
    assert answer["predictions"] == [
        {
            "scalar": 0.1, "flag": True, "none": [], "nested": [[0, 1], [2, 3]],
            "picture_bytes": {"b64": "YQ=="},
        },
        {
            "scalar": 2, "flag": False, "none": [], "nested": [[4, 5], [6, 7]],
            "picture_bytes": {"b64": "Yg=="},
        },
    ]  # fmt: skip


def test_requests_on_one_connection_keep_their_answers(server: RunningServer) -> None:
    """Requests that arrive together, both protocols mixed, are answered in order."""
    path, other = "/v1/models/identity-int64:predict", "/v2/models/identity-int64/infer"
    requests = []
    for number in range(40):
        tensor = {"name": "x", "shape": [1, 1], "datatype": "INT64", "data": [number]}
        body = {"inputs": [tensor]} if number % 2 else {"instances": [[number]]}
        target = other if number % 2 else path
        requests.append(post(target, orjson.dumps(body), close=number == 39))
    data = exchange_bytes(server.port, b"".join(requests))
    for number in range(40):
        _, headers, rest = split_reply(data)
        length = int(headers["content-length"])
        answer, data = orjson.loads(rest[:length]), rest[length:]
        found = answer["outputs"][0]["data"] if number % 2 else answer["predictions"][0]
        assert found == [number]
    assert data == b""


def test_requests_answered_jointly_keep_their_form(server: RunningServer) -> None:
    """Requests that ran as one batch are answered in rows and in columns, as each asked."""
    server.computer.hold = True
    asked = {"instances": [[1, 2]]}, {"inputs": [[3, 4]]}, {"instances": [[5, 6]]}
    path = "/v1/models/identity-int64:predict"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        for number, document in enumerate(asked):
            client.sendall(post(path, orjson.dumps(document), close=number == 2))
        while len(server.computer.held) < len(asked):
            server.run(lambda: None)
        server.computer.hold = False
        server.release_jointly()
        data = read_all(client)
    bodies = []
    while data:
        _, headers, rest = split_reply(data)
        length = int(headers["content-length"])
        bodies.append(orjson.loads(rest[:length]))
        data = rest[length:]
    assert bodies == [{"predictions": [[1, 2]]}, {"outputs": [[3, 4]]}, {"predictions": [[5, 6]]}]


VALUES = {
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FP64": st.floats(allow_nan=False, allow_infinity=False),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BOOL": st.booleans(),
    "BYTES": st.text(max_size=4),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[list[Any]]]:
    """Make a datatype and rows of one length."""
    datatype = draw(st.sampled_from(sorted(VALUES)))
    width = draw(st.integers(1, 4))
    row = st.lists(VALUES[datatype], min_size=width, max_size=width)
    return datatype, draw(st.lists(row, min_size=1, max_size=5))


@settings(max_examples=150, deadline=None)
@given(table=tables())
def test_rows_columns_and_v2_agree(
    server: RunningServer, table: tuple[str, list[list[Any]]]
) -> None:
    """The same data gives the same predictions in rows, in columns and on /v2."""
    datatype, rows = table
    model, width = f"identity-{datatype.lower()}", len(rows[0])
    tensor = {"name": "x", "shape": [len(rows), width], "datatype": datatype}
    data = [value for row in rows for value in row]
    asked: dict[str, list[Any]] = {
        f"/v2/models/{model}/infer": [{"inputs": [{**tensor, "data": data}]}],
        f"/v1/models/{model}:predict": [{"instances": rows}, {"inputs": rows}],
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    answers = []
    for path, documents in asked.items():
        for document in documents:
            connection.request("POST", path, orjson.dumps(document))
            answers.append(orjson.loads(connection.getresponse().read()))
    connection.close()
    flat = answers[0]["outputs"][0]["data"]
    expected = [flat[start : start + width] for start in range(0, len(flat), width)]
    assert answers[1:] == [{"predictions": expected}, {"outputs": expected}]


@pytest.mark.parametrize("instances", [[[""] * 101], [{"x": [[""] * 101]}], [[{}] * 101]])
def test_texts_over_the_limit(instances: list[Any]) -> None:
    """Texts, lists and objects are counted in these bodies too."""
    with RunningServer(HttpSettings(max_objects=100)) as server:
        status, _, answer = predict(server, "identity-bytes", {"instances": instances})
        assert (status, answer["code"]) == (413, "body_too_large")
        assert predict(server, "identity-bytes", {"instances": [[""] * 20]})[0] == 200


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"instances":[[9]],"instances":[[1]]}', {"predictions": [[1]]}),
        (b'{"inputs":[[9]],"inputs":[[1]]}', {"outputs": [[1]]}),
        (b'{"instances":[{"x":[9],"x":[1]}]}', {"predictions": [[1]]}),
        (b'{"inputs":{"x":[[9]],"x":[[1]]}}', {"outputs": [[1]]}),
        (b'{"signature_name":"no","signature_name":"","inputs":[[1]]}', {"outputs": [[1]]}),
    ],
)
def test_the_last_of_equal_keys_wins(server: RunningServer, body: bytes, answer: Any) -> None:
    """At every level, in rows and in columns, as in the other bodies."""
    status, _, document = predict(server, "identity-int32", body)
    assert (status, document) == (200, answer)
