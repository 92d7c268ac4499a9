"""The Open Inference Protocol, also through unmodified clients."""

import asyncio
import math
from collections import Counter
from typing import Any

import grpc
import numpy as np
import orjson
import pytest
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from salver.core.datatypes import DTYPES
from salver.core.tensor import AnyArray
from tests.gateway.grpc.calls import infer, infer_request
from tests.gateway.inprocess import DATATYPES, RunningServer, exchange_bytes, post, split_reply
from tests.gateway.test_http_bad import GOOD, INFER


def sample(datatype: str) -> AnyArray:
    """Return two rows of three values, extremes included."""
    if datatype == "BYTES":
        return np.array([[b"", b"a", "ä€".encode()], [b"x" * 300, b"0", b"null"]], dtype=object)
    dtype: Any = DTYPES[datatype]
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    if dtype.kind == "f":
        info = np.finfo(dtype)
        return np.array([[0, -1.5, info.max], [info.tiny, info.min, 1 / 3]], dtype)
    limits = np.iinfo(dtype)
    return np.array([[0, 1, limits.max], [limits.min, 7, 100]], dtype)


# tritonclient refuses to send FP16 as JSON; test_fp16_as_json does.
ENCODINGS = [
    (datatype, binary)
    for datatype in DATATYPES
    for binary in (True, False)
    if binary or datatype != "FP16"
]


@pytest.mark.parametrize(("datatype", "binary"), ENCODINGS)
def test_every_datatype_survives_both_encodings(
    server: RunningServer, datatype: str, binary: bool
) -> None:
    """Unmodified tritonclient gets back what it sent, as binary and as JSON."""
    array = sample(datatype)
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        given = tritonclient.http.InferInput("x", list(array.shape), datatype)
        given.set_data_from_numpy(array, binary_data=binary)
        wanted = tritonclient.http.InferRequestedOutput("y", binary_data=binary)
        result = client.infer(f"identity-{datatype.lower()}", [given], outputs=[wanted])
        answer = result.as_numpy("y")
        assert answer.shape == array.shape
        if datatype == "BYTES":
            answer = np.array(
                [item if isinstance(item, bytes) else item.encode() for item in answer.ravel()],
                dtype=object,
            ).reshape(array.shape)
        assert np.array_equal(answer, array)


def test_fp16_as_json(server: RunningServer) -> None:
    """FP16 values may be written as JSON numbers."""
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP16", "data": [1.5, -2]}]}
    request = post("/v2/models/identity-fp16/infer", orjson.dumps(body))
    _, _, answer = split_reply(exchange_bytes(server.port, request))
    assert orjson.loads(answer)["outputs"][0]["data"] == [1.5, -2.0]


def test_tritonclient_asks_everything_it_can(server: RunningServer) -> None:
    """Liveness, readiness, metadata, ids, versions and errors work with the synchronous client."""
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("two")
        assert client.is_model_ready("two", "1")
        assert not client.is_model_ready("none")
        metadata = client.get_model_metadata("two")
        assert [item["name"] for item in metadata["inputs"]] == ["a", "b"]
        assert metadata["versions"] == ["1"]
        assert client.get_server_metadata()["name"] == "salver"
        inputs = []
        for name, value in (("a", 5), ("b", 3)):
            item = tritonclient.http.InferInput(name, [1], "FP32")
            item.set_data_from_numpy(np.array([value], np.float32))
            inputs.append(item)
        result = client.infer(
            "two", inputs, request_id="mine", model_version="1",
            request_compression_algorithm="gzip", response_compression_algorithm="gzip",
        )  # fmt: skip
        assert result.get_response()["id"] == "mine"
        assert result.as_numpy("sum") == 8
        with pytest.raises(InferenceServerException, match="no endpoint"):
            client.infer("none", inputs)


def test_tritonclient_aio(server: RunningServer) -> None:
    """Fifty concurrent requests of the asynchronous client each get their own answer."""

    async def ask() -> None:
        async with tritonclient.http.aio.InferenceServerClient(
            f"127.0.0.1:{server.port}"
        ) as client:

            async def one(value: int) -> None:
                item = tritonclient.http.InferInput("x", [1, 1], "INT64")
                item.set_data_from_numpy(np.array([[value]]))
                result = await client.infer("identity-int64", [item])
                assert result.as_numpy("y")[0][0] == value

            await asyncio.gather(*(one(value) for value in range(50)))

    asyncio.run(ask())


def test_the_id_is_echoed_and_ours_is_another(server: RunningServer) -> None:
    """The caller's id comes back unchanged; Salver's own is in a header and never the caller's."""
    for caller_id in ("", "x" * 500, 'ü\n"quotes"'):
        body = orjson.dumps({**orjson.loads(GOOD), "id": caller_id})
        _, headers, answer = split_reply(exchange_bytes(server.port, post(INFER, body)))
        assert orjson.loads(answer)["id"] == caller_id
        assert headers["x-salver-request-id"] != caller_id
        assert headers["x-salver-variant"] == "two:1"


def test_requested_outputs(server: RunningServer) -> None:
    """Only the named outputs come back, in the order asked, each as binary or JSON as asked."""
    body = orjson.dumps(
        {
            **orjson.loads(GOOD),
            "outputs": [{"name": "difference", "parameters": {"binary_data": True}}],
        }
    )
    _, headers, answer = split_reply(exchange_bytes(server.port, post(INFER, body)))
    length = int(headers["inference-header-content-length"])
    (output,) = orjson.loads(answer[:length])["outputs"]
    assert output["name"] == "difference"
    assert np.frombuffer(answer[length:], np.float32) == 2


def test_raw_binary_body(server: RunningServer) -> None:
    """A header length of 0 means that the body is one tensor of a model with one input."""
    header = "Inference-Header-Content-Length: 0"
    raw = np.array([1, 2, 3], np.float32).tobytes()
    request = post("/v2/models/identity-fp32/infer", raw, header)
    _, _, answer = split_reply(exchange_bytes(server.port, request))
    (output,) = orjson.loads(answer)["outputs"]
    assert output["shape"] == [1, 3]
    assert output["data"] == [1, 2, 3]
    request = post("/v2/models/identity-bytes/infer", b"whole body", header)
    _, _, answer = split_reply(exchange_bytes(server.port, request))
    assert orjson.loads(answer)["outputs"][0]["data"] == ["whole body"]
    status, _, _ = split_reply(exchange_bytes(server.port, post(INFER, raw, header)))
    assert status == 400


def test_another_tenants_endpoint_is_none(server: RunningServer) -> None:
    """Its answer is the same whatever the body is, so that nothing can be learned of it."""
    header = "Inference-Header-Content-Length: 0"
    for request in (
        post("/v2/models/foreign/infer", GOOD),
        post("/v2/models/foreign/infer", b"{"),
        post("/v2/models/foreign/infer", b"\0", header),
    ):
        status, _, body = split_reply(exchange_bytes(server.port, request))
        assert (status, orjson.loads(body)["code"]) == (404, "endpoint_not_found")


BAD_BINARY = {
    "too short": (b"\0" * 3, 4),
    "too long": (b"\0" * 12, 4),
    "size too large": (b"\0" * 8, 800),
    "negative size": (b"\0" * 8, -8),
}


@pytest.mark.parametrize("name", BAD_BINARY)
def test_bad_binary_sizes_are_refused(server: RunningServer, name: str) -> None:
    """Sizes that do not fit the bytes are a 400 before anything is read past the end."""
    raw, size = BAD_BINARY[name]
    document = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "x", "shape": [1, 2], "datatype": "FP32",
                    "parameters": {"binary_data_size": size},
                }
            ]
        }
    )  # fmt: skip
    header = f"Inference-Header-Content-Length: {len(document)}"
    request = post("/v2/models/identity-fp32/infer", document + raw, header)
    status, _, body = split_reply(exchange_bytes(server.port, request))
    assert (status, orjson.loads(body)["code"]) == (400, "invalid_tensor")


def test_bytes_prefixes_past_the_end_are_refused(server: RunningServer) -> None:
    """A BYTES element that claims more than was sent is a 400."""
    for raw in (b"\xff\xff\xff\xffab", b"\x05\0\0\0ab", b"\x01\0"):
        document = orjson.dumps(
            {
                "inputs": [
                    {
                        "name": "x", "shape": [1, 1], "datatype": "BYTES",
                        "parameters": {"binary_data_size": len(raw)},
                    }
                ]
            }
        )  # fmt: skip
        header = f"Inference-Header-Content-Length: {len(document)}"
        request = post("/v2/models/identity-bytes/infer", document + raw, header)
        status, _, body = split_reply(exchange_bytes(server.port, request))
        assert (status, orjson.loads(body)["code"]) == (400, "invalid_tensor")


@pytest.mark.parametrize("length", ["-1", "abc", "999999", "1e3", "9" * 5000])
def test_bad_json_lengths_are_refused(server: RunningServer, length: str) -> None:
    """The length of the JSON part must be a number within the body."""
    request = post(INFER, GOOD, f"Inference-Header-Content-Length: {length}")
    assert split_reply(exchange_bytes(server.port, request))[0] == 400


def test_non_finite_outputs_are_a_coded_error_in_json(server: RunningServer) -> None:
    """NaN and infinity cannot be JSON; as binary they pass unchanged."""
    raw = np.array([[math.nan, math.inf]], np.float32).tobytes()
    for binary, expected in ((False, 500), (True, 200)):
        document = orjson.dumps(
            {
                "inputs": [
                    {
                        "name": "x", "shape": [1, 2], "datatype": "FP32",
                        "parameters": {"binary_data_size": 8},
                    }
                ],
                "parameters": {"binary_data_output": binary},
            }
        )  # fmt: skip
        header = f"Inference-Header-Content-Length: {len(document)}"
        request = post("/v2/models/identity-fp32/infer", document + raw, header)
        status, _, body = split_reply(exchange_bytes(server.port, request))
        assert status == expected
        if binary:
            assert body.endswith(raw)
        else:
            assert orjson.loads(body)["code"] == "non_finite_output"


def test_model_failures_are_the_models_fault(server: RunningServer) -> None:
    """An error of the model is a coded 500, not a 400."""
    body = orjson.dumps({**orjson.loads(GOOD), "parameters": {"fail": True}})
    status, _, answer = split_reply(exchange_bytes(server.port, post(INFER, body)))
    assert (status, orjson.loads(answer)["code"]) == (500, "model_failed")


def test_declared_ranges_follow_the_policy(server: RunningServer) -> None:
    """A value outside its declared range is refused, or let through and counted."""
    body = orjson.dumps(
        {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [130, 1]}]}
    )
    status, _, answer = split_reply(
        exchange_bytes(server.port, post("/v2/models/strict/infer", body))
    )
    assert (status, orjson.loads(answer)["code"]) == (422, "value_rejected")
    status, _, answer = split_reply(
        exchange_bytes(server.port, post("/v2/models/lenient/infer", body))
    )
    assert status == 200
    assert "'age'" in orjson.loads(answer)["parameters"]["salver_out_of_range"]
    assert orjson.loads(answer)["outputs"][0]["data"] == [130, 1]
    status, _, answer = split_reply(
        exchange_bytes(server.port, post("/v2/models/lenient/infer", body.replace(b"130", b"30")))
    )
    assert "parameters" not in orjson.loads(answer)
    names = {sample.name: sample.value for sample in server.meter.counters()}
    assert names["salver_out_of_range_total"] >= 1


def test_each_request_is_one_exchange(server: RunningServer) -> None:
    """Every answered or refused inference leaves one record with its code."""
    server.call(_drain(server))
    server.exchanges.clear()
    exchange_bytes(server.port, post(INFER, GOOD))
    exchange_bytes(server.port, post(INFER, b"{"))
    server.call(_drain(server))
    assert [exchange.code for exchange in server.exchanges] == ["", "invalid_json"]
    assert server.exchanges[0].total_ns > 0


async def _drain(server: RunningServer) -> None:
    server.ring.drain()


def test_names_that_callers_make_up_are_not_recorded(server: RunningServer) -> None:
    """Requests for endpoints that do not exist are counted, under no name, over both protocols.

    Else callers could make as many series of the metrics as they like.
    """
    server.call(_drain(server))
    server.exchanges.clear()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for number in range(3):
            exchange_bytes(server.port, post(f"/v2/models/none-{number}/infer", GOOD))
            request = infer_request(f"none-{number}", {"x": np.zeros((1, 2), np.float32)})
            with pytest.raises(grpc.RpcError):
                infer(channel, request)
    exchange_bytes(server.port, post("/v2/models/loading/infer", GOOD))
    server.call(_drain(server))
    recorded = Counter((one.protocol, one.endpoint, one.code) for one in server.exchanges)
    assert recorded == {
        ("http", "", "endpoint_not_found"): 3,
        ("grpc", "", "endpoint_not_found"): 3,
        ("http", "loading", "not_ready"): 1,
    }
