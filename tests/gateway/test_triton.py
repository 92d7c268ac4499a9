"""Triton's extensions through its unmodified clients, and what is refused how."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.http
import tritonclient.http.aio
import yaml
from tritonclient.utils import InferenceServerException

from salver.core.signature import Signature, TensorSpec
from salver.gateway.triton.config import max_batch_size, model_config
from salver.gateway.triton.switches import log_settings
from salver.wire.messages import BatchPolicy, EndpointPlan, VariantPlan
from tests.gateway.inprocess import (
    DATATYPES,
    PLAN,
    RunningServer,
    exchange_bytes,
    post,
    split_reply,
)
from tests.gateway.test_auth import ALICE, BOB, entry

UNSUPPORTED = (501, "unsupported_operation")


def client_of(server: RunningServer) -> Any:
    """Return the synchronous client."""
    return tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")


def ask(
    server: RunningServer, method: str, path: str, body: bytes = b"", *headers: str
) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and document of one answer."""
    request = post(path, body, *headers).replace(b"POST", method.encode(), 1)
    status, fields, text = split_reply(exchange_bytes(server.port, request))
    return status, fields, orjson.loads(text) if text else None


def refused(server: RunningServer, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    """Return status and code of a refusal."""
    status, _, document = ask(server, method, path, body)
    assert document["error"]
    return status, document["code"]


def scalar(name: str, value: float) -> Any:
    """Return an input of one number."""
    item = tritonclient.http.InferInput(name, [1], "FP32")
    item.set_data_from_numpy(np.array([value], np.float32))
    return item


def test_the_server_names_what_works(server: RunningServer) -> None:
    """The extensions that work are named, and none that is refused or only read."""
    with client_of(server) as client:
        assert client.get_server_metadata()["extensions"] == [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "parameters",
            "statistics",
        ]


def test_the_configuration_says_what_the_plan_says(server: RunningServer) -> None:
    """A model that is batched has its rows' dimensions, with and without the version named."""
    with client_of(server) as client:
        config = client.get_model_config("labelled")
        assert config == client.get_model_config("labelled", "1")
        assert config["name"] == "labelled"
        assert config["platform"] == config["backend"] == "test"
        assert config["max_batch_size"] == 64
        (given,), (output,) = config["input"], config["output"]
        assert (given["name"], given["data_type"], given["dims"]) == ("x", "TYPE_FP32", [3])
        assert (output["name"], output["data_type"], output["dims"]) == ("y", "TYPE_FP32", [3])
        assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0
        assert config["model_transaction_policy"] == {"decoupled": False}
        assert config["version_policy"] == {"specific": {"versions": [1]}}
        kinds = {
            client.get_model_config(f"identity-{name.lower()}")["input"][0]["data_type"]
            for name in DATATYPES
        }
        assert kinds == {f"TYPE_{name}" for name in DATATYPES if name != "BYTES"} | {"TYPE_STRING"}
        with pytest.raises(InferenceServerException, match="does not serve version"):
            client.get_model_config("labelled", "2")
        with pytest.raises(InferenceServerException, match="no endpoint"):
            client.get_model_config("elsewhere")
        with pytest.raises(InferenceServerException, match="is not ready"):
            client.get_model_config("loading")


@pytest.mark.parametrize(
    ("shape", "limit", "expected"),
    [((-1, 2), 64, 64), ((-1, 2), 1, 0), ((4, 2), 64, 0), ((), 64, 0), ((-1,), 8, 8)],
)
def test_only_a_first_axis_that_is_free_is_a_batch(
    shape: tuple[int, ...], limit: int, expected: int
) -> None:
    """Models whose requests are not joined keep their whole shape and have no batching."""
    spec = TensorSpec("x", "BYTES", shape, optional=True)
    policy = BatchPolicy(limit, 1.5, 7)
    variant = VariantPlan(
        "m:3", "primary", "m", "3", "0", "onnx", 1, 1, Signature((spec,), (spec,)), (), policy
    )
    config = model_config(EndpointPlan("m", (variant,)), variant)
    assert max_batch_size(variant) == config["max_batch_size"] == expected
    assert config["input"][0]["dims"] == list(shape[1:] if expected else shape)
    assert config["input"][0]["optional"]
    assert ("dynamic_batching" in config) == bool(expected)
    if expected:
        assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 1500
        assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 7


def test_the_index_lists_every_version(server: RunningServer) -> None:
    """Ready versions and endpoints that still load are listed, others' endpoints are not."""
    with client_of(server) as client:
        index = {item["name"]: item for item in client.get_model_repository_index()}
    mine = {endpoint.name for endpoint in PLAN.endpoints if endpoint.tenant == "default"}
    assert set(index) == mine
    assert index["two"] == {"name": "two", "version": "1", "state": "READY", "reason": ""}
    assert index["loading"]["state"] == "UNAVAILABLE"
    assert index["loading"]["reason"] == "its model is still loading"
    for body in (b'{"ready":true}', b'{"ready": true, "more": 1}'):
        status, _, document = ask(server, "POST", "/v2/repository/index", body)
        assert status == 200
        assert {item["name"] for item in document} == mine - {"loading"}
    for body in (b"{}", b'{"ready":false}'):
        assert {item["name"] for item in ask(server, "POST", "/v2/repository/index", body)[2]} == (
            mine
        )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"x", "invalid_json"),
        (b"[]", "invalid_request"),
        (b'{"ready":1}', "invalid_request"),
        (b" " * 70_000, "body_too_large"),
    ],
)
def test_a_bad_question_for_the_index_is_refused(
    server: RunningServer, body: bytes, code: str
) -> None:
    """What is no object with a boolean, or is long, has a code."""
    assert refused(server, "POST", "/v2/repository/index", body)[1] == code


def test_versions_without_a_worker_are_unavailable(server: RunningServer) -> None:
    """A version that no worker answers for is listed as such, and left out of the ready ones."""
    route: Any = server.routes._extensions
    documents = route._others._documents
    directory = documents._directory
    documents._directory = directory._replace(variant_ready=lambda variant: variant == "two:1")
    try:
        with client_of(server) as client:
            states = {i["name"]: i["state"] for i in client.get_model_repository_index()}
        assert {name for name, state in states.items() if state == "READY"} == {"two"}
        _, _, ready = ask(server, "POST", "/v2/repository/index", b'{"ready":true}')
        assert [item["name"] for item in ready] == ["two"]
    finally:
        documents._directory = directory


def test_models_are_not_loaded_here(server: RunningServer) -> None:
    """Loading and unloading are refused with the command that does it."""
    with client_of(server) as client:
        with pytest.raises(InferenceServerException, match="salver deploy two") as loading:
            client.load_model("two", config="{}", files=None)
        with pytest.raises(InferenceServerException, match="salver undeploy two") as unloading:
            client.unload_model("two")
    assert loading.value.status() == unloading.value.status() == "501"
    assert refused(server, "POST", "/v2/repository/r/models/two/load") == UNSUPPORTED
    assert refused(server, "POST", "/v2/repository/r/index") == UNSUPPORTED
    assert refused(server, "POST", "/v2/repository/models/a%20b/load") == (400, "invalid_name")


def test_trace_and_log_settings_are_read_only(server: RunningServer) -> None:
    """Both are answered as they are; a change is refused and changes nothing."""
    with client_of(server) as client:
        for model in (None, "two"):
            assert client.get_trace_settings(model)["trace_level"] == ["OFF"]
            with pytest.raises(InferenceServerException, match="read-only") as changing:
                client.update_trace_settings(model, {"trace_level": ["TIMESTAMPS"]})
            assert changing.value.status() == "405"
            assert client.get_trace_settings(model)["trace_level"] == ["OFF"]
        with pytest.raises(InferenceServerException, match="no endpoint"):
            client.get_trace_settings("elsewhere")
        settings = client.get_log_settings()
        assert settings["log_info"]
        assert settings["log_errors"]
        assert settings["log_verbose_level"] == 0
        with pytest.raises(InferenceServerException, match=r"observe\.log_level"):
            client.update_log_settings({"log_info": False})
        assert client.get_log_settings() == settings


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", (True, True, True, 1)),
        ("info", (True, True, True, 0)),
        ("warning", (False, True, True, 0)),
        ("error", (False, False, True, 0)),
    ],
)
def test_log_settings_follow_the_level(level: str, expected: tuple[bool, bool, bool, int]) -> None:
    """Each level of Salver's logs is told as what Triton would log."""
    found = log_settings(level)
    names = ("log_info", "log_warnings", "log_errors", "log_verbose_level")
    assert tuple(found[name] for name in names) == expected


def test_shared_memory_is_empty_and_stays_so(server: RunningServer) -> None:
    """No region is there, none can be registered, and letting go of all or any is fine."""
    with client_of(server) as client:
        assert client.get_system_shared_memory_status() == []
        assert client.get_cuda_shared_memory_status() == []
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        client.unregister_system_shared_memory("region")
        with pytest.raises(InferenceServerException, match="no shared memory region") as asking:
            client.get_system_shared_memory_status("region")
        assert asking.value.status() == "404"
        with pytest.raises(InferenceServerException, match="send binary data") as registering:
            client.register_system_shared_memory("region", "/key", 64)
        assert registering.value.status() == "501"
        with pytest.raises(InferenceServerException, match="send binary data"):
            client.register_cuda_shared_memory("region", "aGFuZGxl", 0, 64)


def test_tensors_in_shared_memory_are_refused(server: RunningServer) -> None:
    """Neither inputs nor outputs may be in a region."""
    with client_of(server) as client:
        item = tritonclient.http.InferInput("a", [1], "FP32")
        item.set_shared_memory("region", 4)
        with pytest.raises(InferenceServerException, match="input 'a': tensors in shared") as error:
            client.infer("two", [item, scalar("b", 1)])
        assert error.value.status() == "501"
        wanted = tritonclient.http.InferRequestedOutput("sum")
        wanted.set_shared_memory("region", 4)
        with pytest.raises(InferenceServerException, match="output 'sum': tensors in shared"):
            client.infer("two", [scalar("a", 1), scalar("b", 1)], outputs=[wanted])


def test_reserved_parameters_do_not_reach_a_model(server: RunningServer) -> None:
    """The model gets what is its own, and nothing that the protocol gives a meaning."""
    seen: list[Any] = []
    inner = server.inference.handler

    def watch(request: Any, context: Any, responder: Any) -> None:
        seen.append(request.parameters)
        inner(request, context, responder)

    server.inference.handler = watch
    try:
        document = {
            "inputs": [
                {"name": name, "shape": [1], "datatype": "FP32", "data": [1]} for name in "ab"
            ],
            "parameters": {
                "sequence_id": 0, "sequence_start": True, "sequence_end": False, "headers": "x",
                "triton_enable_empty_final_response": True, "triton_other": 1,
                "binary_data_output": False, "mine": 7, "temperature": 0.5,
            },
        }  # fmt: skip
        assert ask(server, "POST", "/v2/models/two/infer", orjson.dumps(document))[0] == 200
    finally:
        server.inference.handler = inner
    assert seen == [{"mine": 7, "temperature": 0.5}]


@pytest.mark.parametrize("sequence_id", [1, "conversation"])
def test_sequences_are_refused(server: RunningServer, sequence_id: Any) -> None:
    """A request of a sequence is told that no model keeps state."""
    with client_of(server) as client:
        inputs = [scalar("a", 1), scalar("b", 1)]
        with pytest.raises(InferenceServerException, match="sequence_id") as error:
            client.infer("two", inputs, sequence_id=sequence_id, sequence_start=True)
        assert error.value.status() == "501"
        assert client.infer("two", inputs, sequence_id=0).as_numpy("sum") == 2


def test_text_is_not_generated_yet(server: RunningServer) -> None:
    """Both ways to generate are refused, and for unknown endpoints as those are."""
    for path in ("generate", "generate_stream", "versions/1/generate"):
        assert refused(server, "POST", f"/v2/models/two/{path}", b"{}") == UNSUPPORTED
    assert refused(server, "POST", "/v2/models/none/generate") == (404, "endpoint_not_found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v2/models/two/config", "GET, HEAD, OPTIONS"),
        ("/v2/models/two/versions/1/stats", "GET, HEAD, OPTIONS"),
        ("/v2/models/stats", "GET, HEAD, OPTIONS"),
        ("/v2/trace/setting", "GET, HEAD, OPTIONS"),
        ("/v2/logging", "GET, HEAD, OPTIONS"),
        ("/v2/systemsharedmemory/status", "GET, HEAD, OPTIONS"),
        ("/v2/repository/index", "POST, OPTIONS"),
        ("/v2/repository/models/two/load", "POST, OPTIONS"),
        ("/v2/models/two/generate", "POST, OPTIONS"),
        ("/v2/cudasharedmemory/region/r/unregister", "POST, OPTIONS"),
    ],
)
def test_methods(server: RunningServer, path: str, allowed: str) -> None:
    """HEAD works where GET does, OPTIONS lists the methods, others are refused with that list."""
    status, headers, _ = ask(server, "OPTIONS", path)
    assert (status, headers["allow"]) == (200, allowed)
    wrong = "POST" if allowed.startswith("GET") else "GET"
    for method in (wrong, "DELETE", "PUT"):
        status, headers, document = ask(server, method, path)
        assert (status, document["code"]) == (405, "method_not_allowed")
        assert headers["allow"] == allowed
    if allowed.startswith("GET"):
        status, headers, document = ask(server, "HEAD", path)
        assert (status, document) == (200, None)
        assert int(headers["content-length"]) > 0


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository",
        "/v2/repository/models/two",
        "/v2/models/two/configs",
        "/v2/models/two/versions/1/trace/setting",
        "/v2/trace",
        "/v2/logging/more",
        "/v2/systemsharedmemory",
        "/v2/systemsharedmemory/region/r",
    ],
)
def test_paths_beside_the_extensions_stay_unknown(server: RunningServer, path: str) -> None:
    """Nothing else begins to answer."""
    assert refused(server, "GET", path) == (404, "route_not_found")


def test_keys_see_what_they_may_ask(tmp_path: Path) -> None:
    """Without a key nothing is told; a key sees its own endpoints in index and statistics."""
    path = tmp_path / "keys.yaml"
    keys = [
        entry(ALICE, principal="alice", tenant="others"),
        entry(BOB, principal="bob", endpoints=["two", "labelled"]),
    ]
    path.write_text(yaml.safe_dump({"keys": keys}))
    with RunningServer(keys=path) as server:
        for method, route in (
            ("POST", "/v2/repository/index"), ("GET", "/v2/models/stats"),
            ("GET", "/v2/models/two/config"), ("GET", "/v2/logging"),
            ("GET", "/v2/trace/setting"), ("POST", "/v2/systemsharedmemory/unregister"),
            ("POST", "/v2/repository/models/two/load"),
        ):  # fmt: skip
            assert refused(server, method, route) == (401, "unauthenticated")
        for key, names in ((ALICE, ["elsewhere"]), (BOB, ["labelled", "two"])):
            header = f"X-API-Key: {key}"
            _, _, index = ask(server, "POST", "/v2/repository/index", b"", header)
            assert [item["name"] for item in index] == names
            _, _, stats = ask(server, "GET", "/v2/models/stats", b"", header)
            assert [item["name"] for item in stats["model_stats"]] == names
        for route in ("config", "stats", "trace/setting"):
            status, _, document = ask(
                server, "GET", f"/v2/models/hidden/{route}", b"", f"X-API-Key: {BOB}"
            )
            assert (status, document["code"]) == (403, "forbidden")
            status, _, document = ask(
                server, "GET", f"/v2/models/two/{route}", b"", f"X-API-Key: {ALICE}"
            )
            assert (status, document["code"]) == (404, "endpoint_not_found")


def test_the_asynchronous_client(server: RunningServer) -> None:
    """The calls work with the asynchronous client too."""

    async def talk() -> None:
        async with tritonclient.http.aio.InferenceServerClient(
            f"127.0.0.1:{server.port}"
        ) as client:
            assert (await client.get_model_config("two"))["name"] == "two"
            assert await client.get_model_repository_index()
            stats = await client.get_inference_statistics("two", "1")
            assert stats["model_stats"][0]["version"] == "1"
            assert (await client.get_trace_settings())["trace_level"] == ["OFF"]
            assert (await client.get_log_settings())["log_errors"]
            assert await client.get_system_shared_memory_status() == []
            await client.unregister_system_shared_memory()
            with pytest.raises(InferenceServerException, match="salver deploy"):
                await client.load_model("two")

    asyncio.run(talk())
