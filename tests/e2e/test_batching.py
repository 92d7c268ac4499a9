"""What a deploy may say of batches and of equal requests, through a whole server."""

import http.client
import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http

from tests import models
from tests.e2e.server import Server, wait_until

_CALLERS = 16
_TEXTS = 96


def ask(port: int, endpoint: str, ids: Sequence[int], **parameters: Any) -> tuple[int, Any]:
    """Ask with a text, every other one with a mask; returns the status and the document."""
    shape = [1, len(ids)]
    inputs = [{"name": "ids", "datatype": "INT64", "shape": shape, "data": ids}]
    if len(ids) % 2:
        data = [1] * len(ids)
        inputs.append({"name": "mask", "datatype": "INT64", "shape": shape, "data": data})
    body = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", f"/v2/models/{endpoint}/infer", body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def pushed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Push a model of texts with its sequences."""
    file = tmp_path_factory.mktemp("texts") / "sequence.yaml"
    file.write_text("inputs: {ids: {axis: 1, pad: -7}}\nmask: mask\n")
    server.push(models.onnx_texts(), "texts", "--sequence", str(file))
    return server


@pytest.mark.parametrize("batching", ["fixed", "adaptive"])
def test_texts_of_all_lengths_get_their_own_answers(pushed: Server, batching: str) -> None:
    """With every option set, callers at once get what each would get alone, in fewer batches."""
    pushed.ok(
        "deploy", "texts", "--endpoint", batching, "--batching", batching, "--priorities",
        "--max-batch-size", "16", "--max-batch-tokens", "400", "--max-queue-delay", "20",
        "--objective", "500", "--max-padding", "0.4", "--request-timeout", "20",
    )  # fmt: skip
    rng = random.Random(5)
    texts = [[rng.randrange(1000) for _ in range(rng.randint(1, 40))] for _ in range(_TEXTS)]
    before = pushed.metric("salver_batches_total") or 0
    with ThreadPoolExecutor(_CALLERS) as pool:
        answers = list(
            pool.map(lambda text: ask(pushed.port, batching, text, priority=len(text) % 20), texts)
        )
    for text, (status, document) in zip(texts, answers, strict=True):
        assert status == 200, document
        outputs = {output["name"]: output for output in document["outputs"]}
        assert outputs["doubled"]["shape"] == [1, len(text)]
        assert outputs["doubled"]["data"] == [2 * token for token in text]
        assert outputs["sum"]["data"] == [sum(text)]
    wait_until(
        lambda: before < (pushed.metric("salver_batches_total") or 0),
        "the batches are counted",
    )
    assert (pushed.metric("salver_batches_total") or 0) - before < _TEXTS


def test_a_version_says_what_was_declared_of_it(pushed: Server, tmp_path: Path) -> None:
    """The push tells which inputs are filled; another declaration changes a version no more."""
    file = tmp_path / "sequence.json"
    file.write_text(json.dumps({"inputs": {"ids": {"pad": 3}}}))
    model = str(models.onnx_texts())
    again = pushed.json("push", model, "--name", "texts", "--sequence", str(file))
    assert again["existing"]
    assert again["sequences"] == ["ids", "mask"]
    assert any("sequences stay as they were" in warning for warning in again["warnings"])


def test_a_declaration_that_is_none_is_refused(pushed: Server, tmp_path: Path) -> None:
    """Whatever the file holds, the command says what was expected and stores nothing."""
    file = tmp_path / "sequence.yaml"
    for content in ("[1, 2]", "inputs: 5", "inputs: {ids: {axis: true}}", "inputs: {ids: {ax: 1}}"):
        file.write_text(content)
        model = str(models.onnx_texts())
        done = pushed.salver("push", model, "--name", "refused", "--sequence", str(file))
        assert done.returncode != 0
        assert b"Traceback" not in done.stderr
    assert "refused" not in [item["name"] for item in pushed.json("get", "models")]


def counts(server: Server, endpoint: str) -> dict[str, int]:
    """Return the counts that tritonclient is told of an endpoint, the same through both doors."""
    address = f"127.0.0.1:{server.port}"
    with tritonclient.http.InferenceServerClient(address) as client:
        (found,) = client.get_inference_statistics(endpoint)["model_stats"]
    with tritonclient.grpc.InferenceServerClient(address) as other:
        (called,) = other.get_inference_statistics(endpoint).model_stats
    durations = found["inference_stats"]
    assert durations == {
        name: {key: getattr(getattr(called.inference_stats, name), key) for key in ("count", "ns")}
        for name in durations
    }
    assert min(durations["cache_hit"]["ns"], durations["cache_miss"]["ns"]) > 0
    totals = {name: found[name] for name in ("inference_count", "execution_count")}
    assert totals == {name: getattr(called, name) for name in totals}
    return totals | {name: duration["count"] for name, duration in durations.items()}


def keeps(server: Server, endpoint: str) -> Any:
    """Return what an endpoint's configuration says of its cache, the same through both doors."""
    address = f"127.0.0.1:{server.port}"
    with tritonclient.http.InferenceServerClient(address) as client:
        found = client.get_model_config(endpoint).get("response_cache")
    with tritonclient.grpc.InferenceServerClient(address) as other:
        config = other.get_model_config(endpoint).config
    assert config.response_cache.enable == (found is not None)
    return found


def test_equal_requests_are_answered_from_memory(pushed: Server) -> None:
    """With --cache equal requests ask the model once; a redeploy without it forgets the answers."""
    pushed.ok("deploy", "texts", "--endpoint", "kept", "--cache")
    answers = [ask(pushed.port, "kept", [1, 2, 3]) for _ in range(5)]
    assert [document["outputs"] for _, document in answers] == [answers[0][1]["outputs"]] * 5
    assert pushed.gateway_metric("salver_cache_requests_total", endpoint="kept", result="hit") == 4
    assert counts(pushed, "kept") == {
        "inference_count": 5, "execution_count": 1, "success": 5, "fail": 0, "queue": 5,
        "compute_input": 1, "compute_infer": 1, "compute_output": 1,
        "cache_hit": 4, "cache_miss": 1,
    }  # fmt: skip
    with ThreadPoolExecutor(_CALLERS) as pool:
        many = list(pool.map(lambda n: ask(pushed.port, "kept", [n % 4, 9, 9]), range(64)))
    for number, (status, document) in enumerate(many):
        assert status == 200
        assert document["outputs"][1]["data"] == [number % 4 + 18]
    misses = pushed.gateway_metric("salver_cache_requests_total", endpoint="kept", result="miss")
    assert misses == 5
    found = counts(pushed, "kept")
    assert found["execution_count"] <= 5
    assert (found["success"], found["compute_infer"]) == (69, 5)
    assert (found["cache_hit"], found["cache_miss"]) == (64, 5)
    assert (pushed.gateway_metric("salver_cache_bytes") or 0) > 0
    assert keeps(pushed, "kept") == {"enable": True}
    pushed.ok("deploy", "texts", "--endpoint", "kept")
    assert keeps(pushed, "kept") is None
    assert ask(pushed.port, "kept", [1, 2, 3])[0] == 200
    assert pushed.gateway_metric("salver_cache_bytes") == 0
