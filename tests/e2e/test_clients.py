"""Clients of other servers work unmodified against a real model."""

import asyncio
import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tritonclient.http

from salver.client.aio import AsyncClient
from tests import models
from tests.e2e.server import Server, write_rows

ROOT = Path(__file__).parents[2]
KSERVE_PYTHON = ROOT / ".venv-clients" / "bin" / "python"


def deploy_double(server: Server, tmp_path: Path) -> None:
    """Deploy a model that doubles its input."""
    example = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    server.push(models.onnx_identity("FP32", 2), "double", "--example", str(example))
    server.ok("deploy", "double")


def test_kserve(server: Server, tmp_path: Path) -> None:
    """The kserve client gets its predictions with V2, as JSON and as binary, and with V1."""
    deploy_double(server, tmp_path)
    done = subprocess.run(
        [
            str(KSERVE_PYTHON),
            str(ROOT / "tests" / "clients" / "kserve_calls.py"),
            f"http://127.0.0.1:{server.port}",
            "double",
        ],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout.decode().splitlines()[-1])
    expected = [[3.0, 5.0], [7.0, 9.0]]
    assert found == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "json": expected,
        "binary": expected,
        "id": "from-kserve",
        "v1": {
            "live": True,
            "model_ready": True,
            "rows": {"predictions": expected},
            "columns": {"outputs": expected},
        },
    }


def test_rows_and_columns_over_rest(server: Server, tmp_path: Path) -> None:
    """A table model answers rows, named rows and columns as it answers arrays."""
    server.push(models.xgboost_iris("json"), "iris")
    server.ok("deploy", "iris")
    rows, names = models.rows("iris")[:4], models.columns("iris")
    frame = pd.DataFrame(rows, columns=names)
    with server.client() as client:
        expected = client.predict("iris", rows.astype(np.float32)).outputs["prediction"]
    documents: list[tuple[str, Any]] = [
        ("predictions", {"instances": rows.tolist()}),
        ("predictions", {"instances": frame[names[::-1]].to_dict("records")}),
        ("outputs", {"inputs": frame.to_dict("list")}),
    ]
    url = f"http://127.0.0.1:{server.port}/v1/models/iris:predict"
    for key, document in documents:
        with urllib.request.urlopen(url, json.dumps(document).encode(), timeout=60) as response:
            answer = np.array(json.load(response)[key], np.float32)
        np.testing.assert_array_equal(answer, expected)


def test_tritonclient(server: Server, tmp_path: Path) -> None:
    """tritonclient gets a real model's answers with its defaults, which are binary."""
    server.push(models.onnx_breast_cancer(), "cancer")
    server.ok("deploy", "cancer")
    rows = models.rows("breast_cancer")[:5].astype(np.float32)
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        item = tritonclient.http.InferInput("X", list(rows.shape), "FP32")
        item.set_data_from_numpy(rows)
        result = client.infer("cancer", [item])
        assert result.as_numpy("label").shape == (5,)
        np.testing.assert_allclose(result.as_numpy("probabilities").sum(axis=1), 1, rtol=1e-5)


def test_tritonclient_reads_what_ran(server: Server, tmp_path: Path) -> None:
    """Configuration, index and statistics of a real model say what it is and what it did."""
    deploy_double(server, tmp_path)
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        (before,) = client.get_inference_statistics("double")["model_stats"]
        item = tritonclient.http.InferInput("x", [3, 2], "FP32")
        item.set_data_from_numpy(np.ones((3, 2), np.float32))
        wanted = tritonclient.http.InferRequestedOutput("y", class_count=1)
        result = client.infer("double", [item], outputs=[wanted])
        assert result.as_numpy("y").tolist() == [[b"2.0:0"]] * 3
        (after,) = client.get_inference_statistics("double")["model_stats"]
        assert after["inference_count"] == before["inference_count"] + 3
        assert after["execution_count"] == before["execution_count"] + 1
        assert after["inference_stats"]["compute_infer"]["ns"] > 0
        assert after["inference_stats"]["queue"]["count"] >= 1
        config = client.get_model_config("double")
        assert (config["platform"], config["input"][0]["dims"]) == ("onnx", [-1])
        index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
        assert index["double"] == "READY"


def test_our_clients_take_arrays_frames_and_rows(server: Server, tmp_path: Path) -> None:
    """numpy arrays, pandas frames with columns in any order, and rows give the same answer."""
    server.push(models.xgboost_iris("json"), "iris")
    server.ok("deploy", "iris")
    rows = models.rows("iris")[:4]
    names = models.columns("iris")
    frame = pd.DataFrame(rows, columns=names)
    with server.client() as client:
        given: list[Any] = [
            rows.astype(np.float32),
            {"input": rows.astype(np.float32)},
            frame,
            frame[names[::-1]],
            rows.tolist(),
            frame.to_dict("records"),
        ]
        answers = [client.predict("iris", inputs).outputs["prediction"] for inputs in given]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


def test_the_asynchronous_client_mirrors_the_synchronous(server: Server, tmp_path: Path) -> None:
    """AsyncClient pushes, deploys and predicts as Client does, many at once."""

    async def journey() -> None:
        async with AsyncClient(home=server.home) as client:
            version = await client.push(models.lightgbm_wine(), "wine")
            assert version["version"] == 1
            deployed = await client.deploy("wine")
            assert deployed["state"] == "ready"
            rows = models.rows("wine")[:8]
            together = await client.predict("wine", rows.tolist())
            alone = await asyncio.gather(*(client.predict("wine", [row]) for row in rows.tolist()))
            for index, answer in enumerate(alone):
                np.testing.assert_allclose(
                    answer.outputs["prediction"][0], together.outputs["prediction"][index]
                )
            assert [item["name"] for item in await client.endpoints() if item["name"] == "wine"]

    asyncio.run(journey())
