"""MLServer's content types: what they change about inputs and outputs, and what they leave."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core.context import RequestContext
from salver.core.handler import Responder
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.rows import rows_to_tensors
from salver.core.settings import HttpSettings
from salver.core.signature import Column, Signature, TensorSpec
from salver.core.tensor import Tensor, encode_bytes
from salver.gateway.oip.content_types.elements import (
    CONTENT_TYPES,
    decode_elements,
    encode_elements,
)
from salver.gateway.oip.content_types.frame import lay_columns
from salver.gateway.oip.decode import decode_json, decode_member
from salver.gateway.oip.reading import Target
from salver.wire.messages import EndpointPlan, Plan, VariantPlan
from tests.gateway.inprocess import (
    DATATYPES,
    RunningServer,
    endpoint,
    exchange_bytes,
    post,
    split_reply,
)

FEW = settings(max_examples=40, deadline=None)


def same(*inputs: TensorSpec) -> Signature:
    """Return the signature of a model that gives back its inputs under their names."""
    return Signature(inputs, inputs)


def table(datatype: str, *names: str) -> Signature:
    """Return the signature of a model with one table of named columns."""
    return same(TensorSpec("x", datatype, (-1, len(names)), tuple(map(Column, names))))


APART = same(
    TensorSpec("age", "INT64", (-1, 1)),
    TensorSpec("kind", "BYTES", (-1, 1)),
    TensorSpec("height", "FP32", (-1,)),
    TensorSpec("note", "BYTES", (-1, 1), optional=True),
)
TABLE = table("FP32", "age", "height", "member")


def two_versions() -> EndpointPlan:
    """Return an endpoint whose versions have their columns in another order."""
    variants = [
        VariantPlan(
            f"shuffled:{number}", "primary", "shuffled", str(number), "0" * 64, "test", 5_000, 1,
            table("FP32", *names), ("shared-0",),
        )
        for number, names in ((1, ("age", "height")), (2, ("height", "age")))
    ]  # fmt: skip
    return EndpointPlan("shuffled", tuple(variants))


PLAN = Plan(
    1,
    0,
    (
        *(endpoint(name, same(TensorSpec("x", name, (-1, -1)))) for name in DATATYPES),
        endpoint("table", TABLE),
        endpoint("whole", table("INT32", "a", "b")),
        endpoint("words", table("BYTES", "a", "b")),
        endpoint("apart", APART),
        two_versions(),
    ),
)


class Mirror:
    """Handler that gives the inputs back and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[InferenceRequest] = []

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Answer with the inputs."""
        self.asked.append(request)
        responder.send(InferenceResponse(request.inputs))


MIRROR = Mirror()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Give a server whose models mirror."""
    with RunningServer(last=MIRROR, plan=PLAN) as running:
        yield running


def ask(
    server: RunningServer, path: str, document: dict[str, Any], raw: bytes = b""
) -> tuple[int, Any]:
    """Return status and answer of one inference, raw bytes after the JSON under ``raw``."""
    body, lines = orjson.dumps(document), []
    if raw:
        lines = [f"Inference-Header-Content-Length: {len(body)}"]
    request = post(f"/v2/models/{path}/infer", body + raw, *lines)
    status, headers, answer = split_reply(exchange_bytes(server.port, request))
    length = int(headers.get("inference-header-content-length", len(answer)))
    return status, orjson.loads(answer[:length]) | {"raw": answer[length:]}


def tensor(
    data: list[Any],
    datatype: str = "BYTES",
    content_type: str | None = None,
    *,
    name: str = "x",
    shape: list[int] | None = None,
) -> dict[str, Any]:
    """Return an input of one row, or of the shape that is given."""
    item = {"name": name, "shape": shape or [1, len(data)], "datatype": datatype, "data": data}
    return item if content_type is None else item | {"parameters": {"content_type": content_type}}


def wanted(content_type: str, name: str = "x", **parameters: Any) -> dict[str, Any]:
    """Return an entry of ``outputs``."""
    return {"name": name, "parameters": {"content_type": content_type, **parameters}}


def frame(*columns: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    """Return the body of a data frame."""
    return {"inputs": list(columns), "parameters": {"content_type": "pd", **parameters}}


@FEW
@given(items=st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_base64_reaches_the_model_as_bytes_and_comes_back_as_it_went(
    server: RunningServer, items: list[bytes]
) -> None:
    """The model sees the bytes that were meant; the caller gets base64, and is told so."""
    sent = [base64.b64encode(item).decode() for item in items]
    document = {"inputs": [tensor(sent, "BYTES", "base64")], "outputs": [wanted("base64")]}
    status, answer = ask(server, "BYTES", document)
    assert status == 200
    assert MIRROR.asked[-1].inputs[0].array().ravel().tolist() == items
    (output,) = answer["outputs"]
    assert output["data"] == sent
    assert output["parameters"] == {"content_type": "base64"}


def test_binary_outputs_are_converted_too(server: RunningServer) -> None:
    """An output that is asked as binary base64 says its content type and its size."""
    document = {
        "inputs": [tensor(["a"])],
        "outputs": [wanted("base64", binary_data=True)],
    }
    _, answer = ask(server, "BYTES", document)
    assert answer["raw"] == encode_bytes([b"YQ=="])
    assert answer["outputs"][0]["parameters"] == {"content_type": "base64", "binary_data_size": 8}


BROKEN = {
    "str": [b"fine", b"\xff\xfe"],
    "base64": [b"YQ==", b"Y"],
    "datetime": [b"2024-05-06", b"yesterday"],
}


@pytest.mark.parametrize("content_type", BROKEN)
def test_an_element_that_is_not_what_was_said_is_named(
    server: RunningServer, content_type: str
) -> None:
    """The refusal names input and element and does not repeat the value; undeclared it passes."""
    raw = encode_bytes(BROKEN[content_type])
    item = {"name": "x", "shape": [1, 2], "datatype": "BYTES"}
    parameters = {"binary_data_size": len(raw)}
    output = {"parameters": {"binary_data_output": True}}
    declared = item | {"parameters": parameters | {"content_type": content_type}}
    status, answer = ask(server, "BYTES", {"inputs": [declared], **output}, raw)
    assert (status, answer["code"]) == (400, "invalid_tensor")
    assert "'x'" in answer["error"]
    assert "element 1" in answer["error"]
    assert "yesterday" not in answer["error"]
    status, _ = ask(server, "BYTES", {"inputs": [item | {"parameters": parameters}], **output}, raw)
    assert status == 200


@pytest.mark.parametrize("text", ["Y", "YQ", "YQ=", "Y Q=", "YQ==YQ==", "-_-_", "a text"])
def test_what_is_no_base64_is_refused(server: RunningServer, text: str) -> None:
    """Padding, alphabet and length must be right: nothing is skipped, nothing passes as it is."""
    status, answer = ask(server, "BYTES", {"inputs": [tensor([text], "BYTES", "base64")]})
    assert (status, answer["code"]) == (400, "invalid_tensor")


MOMENTS = {
    "2024-05-06": "2024-05-06T00:00:00",
    "20240506T070809Z": "2024-05-06T07:08:09+00:00",
    "2024-05-06 07:08": "2024-05-06T07:08:00",
    "2024-05-06t07:08:09.5z": "2024-05-06T07:08:09.500000+00:00",
    "2024-W19-1": "2024-05-06T00:00:00",
    "2024-05-06T07:08:09,123456-0230": "2024-05-06T07:08:09.123456-02:30",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_dates_are_normalised(server: RunningServer, moment: str) -> None:
    """Every way to write ISO 8601 reaches the model in one form, and an answer has it too."""
    document = {"inputs": [tensor([moment], "BYTES", "datetime")]}
    assert ask(server, "BYTES", document)[1]["outputs"][0]["data"] == [MOMENTS[moment]]
    document = {"inputs": [tensor([moment])], "outputs": [wanted("datetime")]}
    (output,) = ask(server, "BYTES", document)[1]["outputs"]
    assert (output["data"], output["parameters"]) == (
        [MOMENTS[moment]],
        {"content_type": "datetime"},
    )


@pytest.mark.parametrize(
    "moment", ["", "2024-02-30", "2024-05-06x07:08", "07:08", "2024-05-06T25:00", "١٢٣٤-٠٥-٠٦"]
)
def test_what_is_no_date_is_refused(server: RunningServer, moment: str) -> None:
    """Days that do not exist and forms that ISO 8601 does not have are a coded error."""
    status, answer = ask(server, "BYTES", {"inputs": [tensor([moment], "BYTES", "datetime")]})
    assert (status, answer["code"]) == (400, "invalid_tensor")


ZONES = st.none() | st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))


@given(moment=st.datetimes(timezones=ZONES))
def test_a_normalised_date_is_the_same_moment_and_stays_as_it_is(moment: datetime) -> None:
    """What Python writes is the normal form, and normalising twice changes nothing."""
    text = moment.isoformat().encode()
    once = decode_elements(Tensor("x", "BYTES", (1,), encode_bytes([text])), "datetime")
    assert once.array().tolist() == [text]
    assert decode_elements(once, "datetime").buffer == once.buffer
    if moment.tzinfo is not None and moment.year not in (1, 9999):
        zulu = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0").encode()
        other = decode_elements(Tensor("x", "BYTES", (1,), encode_bytes([zulu])), "datetime")
        assert datetime.fromisoformat(other.array()[0].decode()) == moment


@given(items=st.lists(st.binary(max_size=9), max_size=4), kind=st.sampled_from(["str", "base64"]))
def test_encoding_undoes_decoding(items: list[bytes], kind: str) -> None:
    """What an output's content type makes of bytes, the input's makes bytes again."""
    text = [item.hex().encode() for item in items] if kind == "str" else items
    given_bytes = Tensor("x", "BYTES", (len(text),), encode_bytes(text))
    there = encode_elements(given_bytes, kind)
    assert there is not None
    assert decode_elements(there, kind).buffer == given_bytes.buffer


def test_an_output_that_cannot_be_had_so_is_a_coded_error(server: RunningServer) -> None:
    """The model's answer is no date: the caller is told which element, and what to do."""
    document = {"inputs": [tensor(["2024-05-06", "soon"])], "outputs": [wanted("datetime")]}
    status, answer = ask(server, "BYTES", document)
    assert (status, answer["code"]) == (400, "invalid_request")
    assert "element 1" in answer["error"]
    assert "without 'content_type'" in answer["error"]


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@pytest.mark.parametrize("datatype", DATATYPES)
def test_hints_that_concern_nothing_change_nothing(
    server: RunningServer, datatype: str, content_type: str
) -> None:
    """Numbers pass under every content type, text under the ones about arrays and tables."""
    if datatype == "BYTES" and content_type not in ("np", "pd"):
        content_type = "str"
    known: dict[str, list[Any]] = {"BYTES": ["a", "€"], "BOOL": [True, False]}
    data = known.get(datatype, [1, 2])
    plain = {"inputs": [tensor(data, datatype)]}
    _, expected = ask(server, datatype, plain)
    for document in (
        {"inputs": [tensor(data, datatype, content_type)]},
        plain | {"parameters": {"content_type": content_type}},
        plain | {"parameters": {"content_type": "np"}, "outputs": [wanted(content_type)]},
    ):
        status, answer = ask(server, datatype, document)
        assert status == 200
        (output,) = answer["outputs"]
        tag = output.pop("parameters", None)
        assert output == expected["outputs"][0]
        named = "outputs" in document and (datatype == "BYTES" or content_type == "np")
        named = named and content_type != "pd"
        assert tag == ({"content_type": content_type} if named else None)


@pytest.mark.parametrize("where", ["request", "input", "output"])
@pytest.mark.parametrize("content_type", ["numpy", ["np"], 5, "NP"])
def test_an_unknown_content_type_is_refused_with_those_that_are_known(
    server: RunningServer, where: str, content_type: Any
) -> None:
    """The error lists every content type there is."""
    bad = {"content_type": content_type}
    item = tensor([1], "FP32")
    documents: dict[str, dict[str, Any]] = {
        "request": {"inputs": [item], "parameters": bad},
        "input": {"inputs": [item | {"parameters": bad}]},
        "output": {"inputs": [item], "outputs": [{"name": "x", "parameters": bad}]},
    }
    status, answer = ask(server, "FP32", documents[where])
    assert (status, answer["code"]) == (400, "invalid_request")
    assert ", ".join(CONTENT_TYPES) in answer["error"]


def test_a_tensors_own_content_type_wins(server: RunningServer) -> None:
    """The request's holds for the inputs that say nothing themselves."""
    document = {
        "inputs": [
            tensor(["YQ=="], name="kind", shape=[1, 1]),
            tensor(["YQ=="], "BYTES", "str", name="note", shape=[1, 1]),
            tensor([3], "INT64", name="age", shape=[1, 1]),
            tensor([1.5], "FP32", name="height", shape=[1]),
        ],
        "parameters": {"content_type": "base64"},
    }
    _, answer = ask(server, "apart", document)
    found = {item["name"]: item["data"] for item in answer["outputs"]}
    assert found == {"kind": ["a"], "note": ["YQ=="], "age": [3], "height": [1.5]}


def test_the_model_is_not_told_the_content_type(server: RunningServer) -> None:
    """Other parameters reach the model; this one is the protocol's."""
    parameters = {"content_type": "np", "mine": 1}
    ask(server, "FP32", {"inputs": [tensor([1], "FP32")], "parameters": parameters})
    assert MIRROR.asked[-1].parameters == {"mine": 1}


def test_bodies_as_mlserver_writes_them(server: RunningServer) -> None:
    """Fields that MLServer's types write as null, and text that is no list, are read."""
    nothing = {"content_type": "np", "headers": None}
    item = tensor([1.0, None], "FP32") | {"parameters": nothing}
    document = {
        "id": None, "inputs": [item], "outputs": None,
        "parameters": {"content_type": None, "headers": None, "binary_data_output": True},
    }  # fmt: skip
    status, answer = ask(server, "FP32", document)
    assert status == 200
    assert np.isnan(np.frombuffer(answer["raw"], np.float32)).tolist() == [False, True]
    alone = {"name": "x", "shape": [1, 1], "datatype": "BYTES", "data": "text"}
    _, answer = ask(server, "BYTES", {"inputs": [alone], "parameters": {"content_type": "str"}})
    assert answer["outputs"][0]["data"] == ["text"]


@pytest.mark.parametrize("mode", ["auto", "plain"])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("count", [3, 30_000])
def test_null_is_nan_however_a_body_is_read(mode: str, datatype: str, count: int) -> None:
    """Short and long bodies, flat and nested, have NaN where they have null."""
    numbers = [1.5, None, *([2] * (count - 2))]
    for data in (numbers, [[number] for number in numbers]):
        document = {"inputs": [tensor(data, datatype, "np", shape=[count, 1])]}
        decoded = decode_json(orjson.dumps(document), Target("m", None), HttpSettings(), mode)
        array = decoded.request.inputs[0].array().ravel()
        assert array[0] == 1.5
        assert np.flatnonzero(np.isnan(array)).tolist() == [1]


@pytest.mark.parametrize("content_type", ["str", "base64"])
def test_null_is_not_nan_elsewhere(server: RunningServer, content_type: str) -> None:
    """Where nothing says that numbers may be missing, null is refused as before."""
    document = {"inputs": [tensor([1.0, None], "FP32", content_type)]}
    assert ask(server, "FP32", document)[1]["code"] == "invalid_tensor"


def test_bodies_without_parameters_keep_their_fast_way() -> None:
    """A usual body is one of many; with a content type it is read by itself."""
    plain = {"inputs": [tensor([1.0], "FP32")]}
    assert decode_member(orjson.dumps(plain), HttpSettings()) is not None
    named = plain | {"parameters": {"content_type": "np"}}
    assert decode_member(orjson.dumps(named), HttpSettings()) is None
    decoded = decode_json(orjson.dumps(plain), Target("m", None), HttpSettings())
    assert decoded.contents is None


def test_columns_are_put_together_by_name(server: RunningServer) -> None:
    """Any order, [n] and [n, 1], whole numbers, fractions and truth values make one table."""
    document = frame(
        tensor([True, False], "BOOL", name="member", shape=[2, 1]),
        tensor([1.5, None], "FP64", name="height", shape=[2]),
        tensor([30, 40], "INT64", name="age", shape=[2, 1]),
        binary_data_output=True,
    )
    status, answer = ask(server, "table", document)
    assert status == 200
    assert answer["outputs"][0]["shape"] == [2, 3]
    found = np.frombuffer(answer["raw"], np.float32).reshape(2, 3)
    np.testing.assert_array_equal(found, np.array([[30, 1.5, 1], [40, np.nan, 0]], np.float32))


def test_text_columns_are_put_together(server: RunningServer) -> None:
    """A table of text takes columns with content types of their own."""
    document = frame(
        tensor(["Yg==", "ZA=="], "BYTES", "base64", name="b", shape=[2]),
        tensor(["a", "c"], "BYTES", "str", name="a", shape=[2, 1]),
    )
    _, answer = ask(server, "words", document)
    assert answer["outputs"][0]["data"] == ["a", "b", "c", "d"]


def test_a_model_with_an_input_for_each_column_takes_them(server: RunningServer) -> None:
    """Columns become the inputs of their names, in the shape and datatype that those have."""
    document = frame(
        tensor([1.5, 2], "FP64", name="height", shape=[2, 1]),
        tensor(["a", "b"], name="kind", shape=[2]),
        tensor([3, 4], "INT32", name="age", shape=[2]),
    )
    status, answer = ask(server, "apart", document)
    assert status == 200
    found = {item["name"]: (item["datatype"], item["shape"]) for item in answer["outputs"]}
    assert found == {
        "age": ("INT64", [2, 1]), "kind": ("BYTES", [2, 1]), "height": ("FP32", [2]),
    }  # fmt: skip


def test_a_model_without_column_names_takes_them_as_sent(server: RunningServer) -> None:
    """Names mean nothing to such a model, and their order does."""
    columns = [tensor([n, n + 1], "INT64", name=f"c{n}", shape=[2]) for n in (5, 1)]
    _, answer = ask(server, "FP32", frame(*columns))
    assert answer["outputs"][0]["data"] == [5, 1, 6, 2]


def test_each_version_gets_its_own_order(server: RunningServer) -> None:
    """Whoever answers, values are under the names that they were sent with."""
    document = frame(
        tensor([1], "FP32", name="age", shape=[1]), tensor([2], "FP32", name="height", shape=[1])
    )
    seen = set()
    for path in ["shuffled/versions/1", "shuffled/versions/2", *["shuffled"] * 20]:
        _, answer = ask(server, path, document)
        expected = [1, 2] if answer["model_version"] == "1" else [2, 1]
        assert answer["outputs"][0]["data"] == expected
        seen.add(answer["model_version"])
    assert seen == {"1", "2"}


@pytest.mark.parametrize(("content_type", "datatype"), [("np", "FP32"), ("str", "BYTES")])
def test_a_request_that_is_one_array_names_its_input_as_it_likes(
    server: RunningServer, content_type: str, datatype: str
) -> None:
    """One tensor is the input of a model with one; without the content type its name counts."""
    item = tensor(["a"] if datatype == "BYTES" else [1], datatype, name="input-1")
    named = {"inputs": [item], "parameters": {"content_type": content_type}}
    status, answer = ask(server, datatype, named)
    assert status == 200
    assert answer["outputs"][0]["data"] == item["data"]
    assert ask(server, datatype, {"inputs": [item]})[1]["code"] == "unknown_input"
    assert ask(server, "apart", named)[1]["code"] == "unknown_input"
    twice = named | {"inputs": [item, item]}
    assert ask(server, datatype, twice)[1]["code"] == "unknown_input"


AGE = tensor([30], "INT64", name="a", shape=[1])
BAD_FRAMES: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "missing": ([AGE], "missing_input", "'b'"),
    "unknown": ([AGE, AGE | {"name": "b"}, AGE | {"name": "c"}], "unknown_input", "'c'"),
    "twice": ([AGE, AGE], "invalid_tensor", "two columns"),
    "uneven": (
        [AGE, tensor([1, 2], "INT64", name="b", shape=[2])], "invalid_tensor", "1 and 2 rows",
    ),
    "fraction": ([AGE, tensor([1.5], "FP32", name="b", shape=[1])], "invalid_tensor", "'b'"),
    "too large": ([AGE, tensor([2**40], "INT64", name="b", shape=[1])], "invalid_tensor", "'b'"),
    "text": ([AGE, tensor(["x"], name="b", shape=[1])], "invalid_tensor", "'b' is BYTES"),
    "no column": (
        [AGE, tensor([1, 2], "INT64", name="b", shape=[1, 2])], "invalid_tensor", "[1, 2]",
    ),
    "scalar": (
        [AGE, {"name": "b", "shape": [], "datatype": "INT64", "data": [1]}],
        "invalid_tensor", "'b' has shape []",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_frame_that_does_not_fit_is_a_coded_error(server: RunningServer, name: str) -> None:
    """The error names the column or says what does not go together."""
    columns, code, words = BAD_FRAMES[name]
    status, answer = ask(server, "whole", frame(*columns))
    assert (status, answer["code"]) == (400, code)
    assert words in answer["error"]


CELLS = {
    "INT64": st.integers(-(2**20), 2**20),
    "FP64": st.floats(-1e6, 1e6),
    "BOOL": st.booleans(),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Make the same table as columns in any order and as records."""
    count = draw(st.integers(1, 4))
    tensors, columns = [], {}
    for name in draw(st.permutations(["age", "height", "member"])):
        datatype = draw(st.sampled_from(sorted(CELLS)))
        cells = draw(st.lists(CELLS[datatype], min_size=count, max_size=count))
        dtype: Any = {"INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_}[datatype]
        shape = draw(st.sampled_from([(count,), (count, 1)]))
        tensors.append(Tensor.from_array(name, np.array(cells, dtype).reshape(shape)))
        columns[name] = cells
    return tensors, [{name: columns[name][row] for name in columns} for row in range(count)]


@given(both=tables())
def test_a_frame_is_what_its_rows_are(both: tuple[list[Tensor], list[dict[str, Any]]]) -> None:
    """Columns make the very tensor that the same table makes as rows."""
    columns, rows = both
    (found,) = lay_columns(columns, TABLE)
    (expected,) = rows_to_tensors(rows, TABLE)
    assert (found.name, found.datatype, found.shape) == ("x", "FP32", expected.shape)
    assert bytes(found.buffer) == bytes(expected.buffer)
