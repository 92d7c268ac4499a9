"""MLServer's own code as the client: its command `mlserver infer`, and its codecs.

The command sends what a line holds as a plain tensor, and no parameters; it has no gRPC yet. So its
lines may name content types, which must not be in the way, and what they mean on the wire is tried
with the codecs.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.e2e.server import Server, write_rows

ROOT = Path(__file__).parents[2]
MLSERVER = ROOT / ".venv-mlserver" / "bin"


@pytest.fixture(scope="module")
def serving(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Give a server with a model of one number tensor, one of text, and one of two columns."""
    folder = tmp_path_factory.mktemp("examples")
    rows = write_rows(folder / "rows.json", [[1.0, 2.0]])
    texts = write_rows(folder / "texts.json", [["a"]])
    columns = write_rows(folder / "columns.json", [{"height": 1.0, "age": 2}])
    server.push(models.onnx_identity("FP32", 2), "double", "--example", str(rows))
    server.push(models.onnx_identity("BYTES"), "echo", "--example", str(texts))
    server.push(models.onnx_columns(), "apart", "--example", str(columns))
    for name in ("double", "echo", "apart"):
        server.ok("deploy", name)
    return server


def line(
    name: str, datatype: str, values: list[Any], content_type: str = "", whole: str = ""
) -> dict[str, Any]:
    """Return a request of one column, with content types on the input and on the whole."""
    item: dict[str, Any] = {
        "name": name, "datatype": datatype, "shape": [len(values), 1], "data": values,
    }  # fmt: skip
    if content_type:
        item["parameters"] = {"content_type": content_type}
    request: dict[str, Any] = {"inputs": [item]}
    if whole:
        request["parameters"] = {"content_type": whole}
    return request


def infer(
    server: Server, model: str, requests: list[dict[str, Any]], *options: str
) -> list[dict[str, Any]]:
    """Run the command on a file of requests; returns the lines it wrote, in the file's order."""
    asked, answered = server.home / f"{model}.in", server.home / f"{model}.out"
    asked.write_text("".join(json.dumps(request) + "\n" for request in requests))
    done = subprocess.run(
        [
            str(MLSERVER / "mlserver"), "infer", "--url", f"127.0.0.1:{server.port}",
            "--model-name", model, "--input-data-path", str(asked),
            "--output-data-path", str(answered), "--workers", "2", "--retries", "1", *options,
        ],
        capture_output=True,
        check=False,
        timeout=120,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    written = [json.loads(text) for text in answered.read_text().splitlines()]
    written.sort(key=lambda answer: answer["parameters"]["batch_index"])
    assert [answer["parameters"]["batch_index"] for answer in written] == [*range(len(requests))]
    assert "error" not in {key for answer in written for key in answer}, written
    return written


@pytest.mark.parametrize("options", [(), ("--binary-data",), ("--batch-size", "2")])
def test_infer_reads_numbers_and_text(serving: Server, options: tuple[str, ...]) -> None:
    """Lines under every content type, on input and request, bring each its own answer."""
    numbers = [("np", ""), ("", "np"), ("np", "np"), ("", "")]
    sent = [[float(index), index + 0.5] for index in range(len(numbers))]
    requests = [
        line("x", "FP32", values, *types) for values, types in zip(sent, numbers, strict=True)
    ]
    answers = infer(serving, "double", requests, *options)
    assert [answer["outputs"][0]["data"] for answer in answers] == [
        [2 * value for value in values] for values in sent
    ]
    texts = [
        (["a", "€"], "str", "str"), (["b", "c"], "", "str"), (["YQ==", "Yg=="], "base64", ""),
        (["2024-05-06T07:08:09+00:00", "2025-01-02T00:00:00"], "datetime", ""),
    ]  # fmt: skip
    requests = [line("x", "BYTES", values, own, whole) for values, own, whole in texts]
    answers = infer(serving, "echo", requests, *options)
    assert [answer["outputs"][0]["data"] for answer in answers] == [text[0] for text in texts]


def test_infer_reads_a_frame(serving: Server) -> None:
    """A data frame's columns reach a model with an input for each."""
    columns = [line("height", "FP64", [1.5, 2.5]), line("age", "INT64", [30, 40])]
    request = {
        "id": "mine",
        "inputs": [column["inputs"][0] for column in columns],
        "parameters": {"content_type": "pd"},
    }
    (answer,) = infer(serving, "apart", [request])
    assert answer["id"] == "mine"
    assert answer["outputs"][0]["data"] == [31.5, 42.5]


def test_codecs(serving: Server) -> None:
    """MLServer's codecs are understood over REST and gRPC, and read what was sent."""
    done = subprocess.run(
        [
            str(MLSERVER / "python"), str(ROOT / "tests" / "clients" / "mlserver_calls.py"),
            f"http://127.0.0.1:{serving.port}", serving.grpc_target,
        ],
        capture_output=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    expected = {
        "np": [[3.0, 5.0], [7.0, 9.0]],
        "np of the request": [[3.0, 5.0], [7.0, 9.0]],
        "str": ["first", "zweite", "troisième"],
        "str of the request": ["first", "zweite", "troisième"],
        "base64": ["troisième".encode().hex(), b"plain".hex()],
        "datetime": ["2024-05-06T07:08:09+00:00", "2025-01-02T00:00:00"],
        "pd": [[31.5], [42.5]],
    }
    found = json.loads(done.stdout.decode().splitlines()[-1])
    assert found == {"rest": expected, "grpc": expected}
