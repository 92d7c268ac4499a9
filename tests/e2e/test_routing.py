"""Which version answers on a running server: rules of headers, callers and sizes, and keys."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from salver.gateway.grpc.schema import message_class
from tests import models
from tests.e2e.server import Server, wait_until, write_rows
from tests.e2e.test_code import write
from tests.e2e.test_keys import new_key
from tests.gateway.grpc.calls import SERVICE, infer_request

TEXTS = """
import numpy as np


class Model:
    def predict(self, inputs):
        return {"length": np.array([[NUMBER * len(row[0])] for row in inputs["text"]], np.int64)}
"""
ROUTING = """
rules:
  - {to: canary, headers: {x-beta: "1"}}
  - {to: canary, caller: acme}
  - {to: "1", parameters: {strict: true}}
  - {to: canary, input: text, max_bytes: 20}
"""
SHORT, LONG = "short", "a text that is longer than that by far"
COLUMN = "sepal_width_(cm)"
PROTOCOLS = ("rest", "grpc")


class Callers:
    """A server with keys of three callers, one of whom belongs to another tenant."""

    def __init__(self, folder: Path) -> None:
        file = folder / "keys.yaml"
        file.write_text("keys:\n")
        self.keys = {name: new_key(file, "--principal", name) for name in ("acme", "globex", "eve")}
        file.write_text(
            file.read_text().replace('"principal":"eve"', '"principal":"eve","tenant":"else"')
        )
        self.server = Server(folder / "home", "--api-keys", str(file))

    @property
    def url(self) -> str:
        """The data port."""
        return str(self.server.state()["http_url"])

    def who(self, protocol: str, text: str, caller: str = "globex", **more: Any) -> str:
        """Return the variant that answered a text, by what the answer's head says.

        ``more`` is a header ``beta``, or a parameter.
        """
        headers = {"x-api-key": self.keys[caller]}
        if "beta" in more:
            headers["x-beta"] = more.pop("beta")
        if protocol == "grpc":
            request = infer_request("texts", {"text": np.array([[text.encode()]], object)})
            for name, value in more.items():
                request.parameters[name].bool_param = value
            return self.called(request, headers)
        item = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [text]}
        body = {"inputs": [item], "parameters": more}
        answer = httpx.post(
            f"{self.url}/v2/models/texts/infer", json=body, headers=headers, timeout=30
        )
        assert answer.status_code == 200, answer.text
        document, variant = answer.json(), answer.headers["x-salver-variant"]
        number = int(variant.rpartition(":")[2])
        assert document["model_version"] == str(number)
        assert document["outputs"][0]["data"] == [number * len(text)]
        return str(variant)

    def called(self, request: Any, headers: dict[str, str]) -> str:
        """Return the variant that answered a call."""
        with grpc.insecure_channel(f"127.0.0.1:{self.server.port}") as channel:
            answer, call = channel.unary_unary(
                f"/{SERVICE}/ModelInfer",
                request_serializer=lambda sent: sent.SerializeToString(),
                response_deserializer=message_class("inference.ModelInferResponse").FromString,
            ).with_call(request, timeout=30, metadata=list(headers.items()))
        told = {key: str(value) for key, value in call.initial_metadata()}
        assert answer.model_version == told["x-salver-variant"].rpartition(":")[2]
        return told["x-salver-variant"]


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    """Give a server where only rules send anybody to a canary of texts, whose weight is 0."""
    folder = tmp_path_factory.mktemp("routing")
    made = Callers(folder)
    with made.server as server:
        item = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["hello"]}
        example = write_rows(folder / "text.json", [])
        example.write_text(json.dumps({"inputs": [item]}))
        for number in (1, 2):
            path = write(folder / f"m{number}", TEXTS.replace("NUMBER", str(number)))
            server.push(path, "texts", "--trust-code", "--example", str(example))
        routing = folder / "routing.yaml"
        routing.write_text(ROUTING)
        server.ok("deploy", "texts:1", "--routing", str(routing))
        server.ok("rollout", "start", "texts", "--to", "2", "--strategy", "manual")
        wait_until(lambda: made.who("rest", LONG, "acme") == "texts:2", "the canary answers")
        yield made


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_header_sends_to_the_canary(callers: Callers, protocol: str) -> None:
    """Over gRPC it is a field of the call's metadata; another value sends nowhere."""
    assert callers.who(protocol, LONG) == "texts:1"
    assert callers.who(protocol, LONG, beta="1") == "texts:2"
    assert callers.who(protocol, LONG, beta="2") == "texts:1"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_callers_key_sends_to_the_canary(callers: Callers, protocol: str) -> None:
    """Whose key it is decides, whatever else the request says; others stay."""
    for text in (LONG, 3 * LONG):
        assert callers.who(protocol, text, "acme") == "texts:2"
        assert callers.who(protocol, text, "globex") == "texts:1"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_short_texts_go_to_the_canary(callers: Callers, protocol: str) -> None:
    """By the bytes of the input, in which a text has its length before it; earlier rules win."""
    assert callers.who(protocol, SHORT) == "texts:2"
    assert callers.who(protocol, "x" * 16) == "texts:2"
    assert callers.who(protocol, "x" * 17) == "texts:1"
    assert callers.who(protocol, SHORT, strict=True) == "texts:1"
    assert callers.who(protocol, SHORT, strict=False) == "texts:2"


def test_another_tenants_key_finds_nothing(callers: Callers) -> None:
    """It is answered as if there were no such endpoint, so that names cannot be probed."""
    headers = {"x-api-key": callers.keys["eve"]}
    url = f"{callers.url}/v2/models/{{}}/infer"
    item = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [SHORT]}
    codes = [
        httpx.post(url.format(name), json={"inputs": [item]}, headers=headers, timeout=30).json()[
            "code"
        ]
        for name in ("texts", "nothing")
    ]
    assert codes == ["endpoint_not_found"] * 2
    request = infer_request("texts", {"text": np.array([[b"short"]], object)})
    with pytest.raises(grpc.RpcError) as refused:
        callers.called(request, headers)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_what_rules_send_is_in_no_comparison(callers: Callers) -> None:
    """Chance did not decide it, so a canary that only rules reach has had no request."""
    for _ in range(20):
        assert callers.who("rest", SHORT) == "texts:2"
    with callers.server.client() as client:
        assert client.rollout("texts")["requests"] == 0


def test_a_column_is_a_routing_key(callers: Callers) -> None:
    """Rows with the same value in it stick to a version, by whatever protocol they come."""
    server, headers = callers.server, {"x-api-key": callers.keys["globex"]}
    for suffix in ("json", "ubj"):
        server.push(models.xgboost_iris(suffix), "iris")
    server.ok("deploy", "iris:1", "--endpoint", "iris", "--routing-key", f"input:{COLUMN}")
    server.ok("experiment", "start", "iris", "--arms", "1,2", "--split", "50,50")
    names = models.columns("iris")
    place = names.index(COLUMN)

    def row(value: float, rest: float) -> list[float]:
        return [value if index == place else rest for index in range(len(names))]

    def by_rest(value: float, rest: float) -> str:
        item = {"name": "input", "datatype": "FP32", "shape": [1, len(names)]}
        body = {"inputs": [{**item, "data": row(value, rest)}]}
        answer = httpx.post(
            f"{callers.url}/v2/models/iris/infer", json=body, headers=headers, timeout=30
        )
        assert answer.status_code == 200, answer.text
        return str(answer.headers["x-salver-variant"])

    def by_names(value: float, rest: float) -> str:
        named = dict(zip(names[::-1], row(value, rest)[::-1], strict=True))
        request = urllib.request.Request(
            f"{callers.url}/v1/models/iris:predict",
            json.dumps({"instances": [named]}).encode(),
            headers,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.headers["x-salver-variant"])

    def by_grpc(value: float, rest: float) -> str:
        table = np.array([row(value, rest)], np.float32)
        return callers.called(infer_request("iris", {"input": table}), headers)

    values = [1.0 + number for number in range(24)]
    wait_until(lambda: len({by_rest(value, 0.5) for value in values}) == 2, "both arms answer")
    for value in values:
        found = {ask(value, rest) for ask in (by_rest, by_names, by_grpc) for rest in (0.5, 3.25)}
        assert len(found) == 1, (value, found)
