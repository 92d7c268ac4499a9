"""What the V1 paths say of endpoints, who may ask them, and how requests are counted."""

import socket
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from salver.core.context import ANONYMOUS
from salver.core.signature import Signature, TensorSpec
from salver.gateway.statuses import STATUSES
from salver.gateway.v1.status import model_list, model_signatures, model_status
from salver.wire.messages import EndpointPlan, VariantPlan
from tests.gateway.inprocess import (
    DATATYPES,
    PLAN,
    TWO,
    RunningServer,
    endpoint,
    exchange_bytes,
    post,
    split_reply,
)
from tests.gateway.test_auth import ALICE, BOB, entry
from tests.gateway.test_v1 import Reply, predict, send

ROWS = {"instances": [{"a": 3, "b": 1}]}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Write a file with a key for everything, and one for one endpoint and one open request."""
    limited = entry(BOB, principal="bob", endpoints=["two"], max_in_flight=1)
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump({"keys": [entry(ALICE, principal="alice"), limited]}))
    return path


def ask(server: RunningServer, path: str, *lines: str, method: str = "GET") -> Reply:
    """Send a request without a body; returns status, headers and document."""
    head = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close", *lines]
    return send(server, ("\r\n".join(head) + "\r\n\r\n").encode())


def available(version: str, state: str = "AVAILABLE") -> dict[str, Any]:
    """Return one entry of a model's versions."""
    status = {"error_code": "OK", "error_message": ""}
    return {"version": version, "state": state, "status": status}


def test_the_server_is_alive(server: RunningServer) -> None:
    """The root says that the server lives, as kserve's clients ask it."""
    assert ask(server, "/")[::2] == (200, {"status": "alive"})
    head = b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert split_reply(exchange_bytes(server.port, head))[::2] == (200, b"")


def test_the_list_has_the_callers_endpoints(server: RunningServer) -> None:
    """Every endpoint of the tenant is listed by name, those of others are not."""
    names = sorted(item.name for item in PLAN.endpoints if item.tenant == "default")
    assert ask(server, "/v1/models")[::2] == (200, {"models": names})
    assert ask(server, "/v1/models/")[2] == {"models": names}


def test_a_model_is_one_object_for_both_kinds_of_clients(server: RunningServer) -> None:
    """The state has KServe's keys and TensorFlow Serving's, for all versions and for one."""
    expected = {"name": "two", "ready": True, "model_version_status": [available("1")]}
    for path in ("/v1/models/two", "/v1/models/two/versions/1"):
        assert ask(server, path)[::2] == (200, expected)


def test_a_model_that_is_not_ready_is_503() -> None:
    """A version without a worker is loading; an endpoint without a version says why."""
    with RunningServer() as server:
        server.ready = False
        status, _, answer = ask(server, "/v1/models/two")
        assert (status, answer["ready"]) == (503, False)
        assert answer["model_version_status"] == [available("1", "LOADING")]
        status, headers, answer = ask(server, "/v1/models/loading")
        assert (status, answer["code"], headers["retry-after"]) == (503, "not_ready", "1")
        assert "still loading" in answer["error"]
        status, _, answer = predict(server, "loading", ROWS)
        assert (status, answer["code"]) == (503, "not_ready")


def _variant(version: str, name: str) -> VariantPlan:
    return VariantPlan(name, "primary", "m", version, "0" * 64, "test", 1, 1, TWO, ())


def test_versions_come_newest_first_and_one_by_one() -> None:
    """Every version has its own state; one that a single variant of two can answer is there."""
    versions = ("2", "a"), ("10", "b"), ("10", "c")
    plan = EndpointPlan("m", tuple(_variant(*item) for item in versions))
    found = model_status(plan, None, lambda name: name == "c")
    expected = [available("10"), available("2", "LOADING")]
    assert found == {"model_version_status": expected}
    assert model_status(plan, "2", lambda _: True) == {"model_version_status": [available("2")]}


def test_metadata_is_a_signature_definition(server: RunningServer) -> None:
    """The metadata has TensorFlow Serving's form, with sizes as text."""
    for path in ("/v1/models/strict/metadata", "/v1/models/strict/versions/1/metadata"):
        status, _, answer = ask(server, path)
        assert status == 200
        assert answer["model_spec"] == {"name": "strict", "signature_name": "", "version": "1"}
        found = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert found["method_name"] == "tensorflow/serving/predict"
        dimensions = [{"size": "-1", "name": ""}, {"size": "2", "name": ""}]
        shape = {"dim": dimensions, "unknown_rank": False}
        assert found["inputs"] == {"x": {"name": "x", "dtype": "DT_FLOAT", "tensor_shape": shape}}
        assert list(found["outputs"]) == ["y"]


def test_every_datatype_has_a_name_of_tensorflow() -> None:
    """No datatype is without its TensorFlow name, and no two share one."""
    specs = tuple(TensorSpec(name, name, ()) for name in DATATYPES)
    plan = endpoint("m", Signature(specs, ()))
    document = model_signatures(plan, plan.variants[0])
    inputs = document["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert len({item["dtype"] for item in inputs.values()}) == len(DATATYPES)


UNKNOWN = [
    ("/v1/models/none", 404, "endpoint_not_found"),
    ("/v1/models/foreign", 404, "endpoint_not_found"),
    ("/v1/models/foreign/metadata", 404, "endpoint_not_found"),
    ("/v1/models/two/versions/9", 404, "version_not_found"),
    ("/v1/models/two/versions/9/metadata", 404, "version_not_found"),
    ("/v1", 404, "route_not_found"),
    ("/v1/models/two/versions", 404, "route_not_found"),
    ("/v1/models/two/ready", 404, "route_not_found"),
    ("/v1/models/two:other", 404, "route_not_found"),
    ("/v1/models/two:", 404, "route_not_found"),
    ("/v1/models/:predict", 400, "invalid_name"),
    ("/v1/models/two:predict", 405, "method_not_allowed"),
    ("/v1/models/two:explain", 501, "unsupported_operation"),
    ("/v1/models/two:classify", 501, "unsupported_operation"),
    ("/v1/models/two/labels/stable", 501, "unsupported_operation"),
]


@pytest.mark.parametrize(("path", "status", "code"), UNKNOWN)
def test_unknown_paths_and_names(server: RunningServer, path: str, status: int, code: str) -> None:
    """What does not exist, or is not done, has the same coded errors as on /v2."""
    found, headers, answer = ask(server, path)
    assert (found, answer["code"]) == (status, code)
    assert STATUSES[code].http == status
    assert answer["request_id"] == headers["x-salver-request-id"]


def test_methods(server: RunningServer) -> None:
    """Predictions are asked with POST, everything else with GET, and a refusal says so."""
    assert ask(server, "/v1/models/two:predict")[1]["allow"] == "POST, OPTIONS"
    status, headers, _ = send(server, post("/v1/models/two", b"{}"))
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    request = b"OPTIONS /v1/models/two:predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert split_reply(exchange_bytes(server.port, request))[1]["allow"] == "POST, OPTIONS"


def test_keys_decide(keys: Path) -> None:
    """Being alive is told to everybody; lists, states and predictions need a key that may ask."""
    with RunningServer(keys=keys) as server:
        alice, bob = f"X-API-Key: {ALICE}", f"Authorization: Bearer {BOB}"
        assert ask(server, "/")[0] == 200
        for path in ("/v1/models", "/v1/models/two", "/v1/models/two/metadata"):
            assert ask(server, path)[0] == 401
            assert ask(server, path, bob)[0] == 200
        assert ask(server, "/v1/models", bob)[2] == {"models": ["two"]}
        assert "hidden" in ask(server, "/v1/models", alice)[2]["models"]
        assert ask(server, "/v1/models/hidden", bob)[2]["code"] == "forbidden"
        assert predict(server, "two", ROWS)[0] == 401
        assert predict(server, "two", ROWS, bob)[0] == 200
        assert predict(server, "hidden", ROWS, bob)[2]["code"] == "forbidden"
        assert predict(server, "hidden", ROWS, alice)[0] == 200


def test_another_tenants_endpoint_is_none(server: RunningServer) -> None:
    """Its answer is the same whatever the body is, so that nothing can be learned of it."""
    for document in (ROWS, {"instances": [1]}, b"{"):
        status, _, answer = predict(server, "foreign", document)
        assert (status, answer["code"]) == (404, "endpoint_not_found")


def test_a_callers_quota_counts_and_is_given_back(keys: Path) -> None:
    """An open prediction counts against the key, and no longer when it is answered or left."""
    bob = f"X-API-Key: {BOB}"
    request = post("/v1/models/two:predict", orjson.dumps(ROWS), bob)
    with RunningServer(keys=keys) as server:
        server.computer.hold = True
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(request)
            while not server.computer.held:
                server.run(lambda: None)
            assert predict(server, "two", ROWS, bob)[2]["code"] == "quota_exceeded"
            server.release()
            assert split_reply(client.recv(65536))[0] == 200
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(request)
            while not server.computer.held:
                server.run(lambda: None)
        (context,) = server.computer.contexts[1:]
        while not context.cancelled:
            server.run(lambda: None)
        server.computer.hold = False
        assert predict(server, "two", ROWS, bob)[0] == 200
        assert server.inference.open_count == 0


def test_each_request_is_one_exchange() -> None:
    """Every answered or refused prediction leaves one record with its code."""
    with RunningServer() as server:
        predict(server, "two", ROWS)
        predict(server, "two", {"instances": [1]})
        predict(server, "none", ROWS)
        server.run(server.ring.drain)
        found = [(item.endpoint, item.protocol, item.code) for item in server.exchanges]
    assert found == [
        ("two", "http", ""),
        ("two", "http", "invalid_request"),
        ("", "http", "endpoint_not_found"),
    ]


def test_the_list_of_nobody_is_empty() -> None:
    """Without endpoints the list is empty."""
    assert model_list([], ANONYMOUS) == {"models": []}
