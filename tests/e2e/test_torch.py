"""PyTorch models from the push to the answer, by REST and gRPC, started cold from a zygote."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import torch

from salver.gateway.grpc.schema import message_class
from tests import models, torch_models
from tests.e2e.server import Server

ROWS = models.rows("iris")[:5].astype(np.float32)
NAMES = ("script", "exported")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server whose warm processes have imported torch, with a model in both formats."""
    folder = tmp_path_factory.mktemp("torch")
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text("supervisor: {warm_runtimes: torch}\n")
    (folder / "body.json").write_text(json.dumps(body(ROWS[:1])))
    with Server(home) as running:
        for name, path in (
            ("script", torch_models.iris_script()), ("exported", torch_models.iris_exported()),
        ):  # fmt: skip
            running.push(path, name, "--trust-code", "--example", str(folder / "body.json"))
            running.ok("deploy", name)
        yield running


def body(rows: Any) -> dict[str, Any]:
    """Return a body of the protocol."""
    item = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}
    return {"inputs": [item]}


def expected(name: str) -> Any:
    """Return what torch itself answers."""
    path = torch_models.iris_script() if name == "script" else torch_models.iris_exported()
    return torch_models.ask(path, ROWS)["probabilities"]


@pytest.mark.parametrize("name", NAMES)
def test_rest(serving: Server, name: str) -> None:
    """The answer is torch's own, and the metadata tells names, datatypes and shapes."""
    url = f"http://127.0.0.1:{serving.port}/v2/models/{name}"
    document = httpx.post(f"{url}/infer", json=body(ROWS), timeout=60).json()
    outputs = {item["name"]: item for item in document["outputs"]}
    got = np.array(outputs["probabilities"]["data"]).reshape(outputs["probabilities"]["shape"])
    np.testing.assert_allclose(got, expected(name), rtol=1e-4)
    assert outputs["label"]["datatype"] == "INT64"
    metadata = httpx.get(url, timeout=60).json()
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]


@pytest.mark.parametrize("name", NAMES)
def test_grpc(serving: Server, name: str) -> None:
    """So it is over gRPC."""
    request = message_class("inference.ModelInferRequest")(model_name=name)
    item = request.inputs.add(name="x", datatype="FP32", shape=list(ROWS.shape))
    item.contents.fp32_contents.extend(ROWS.ravel().tolist())
    with grpc.insecure_channel(serving.grpc_target) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_class("inference.ModelInferResponse").FromString,
        )
        answer = call(request, timeout=60)
    index = [output.name for output in answer.outputs].index("probabilities")
    output = answer.outputs[index]
    numbers = (
        np.frombuffer(answer.raw_output_contents[index], "<f4")
        if answer.raw_output_contents
        else np.array(output.contents.fp32_contents)
    )
    np.testing.assert_allclose(numbers.reshape(output.shape), expected(name), rtol=1e-4)


def test_no_batch_is_larger_than_the_program_was_exported_for(
    serving: Server, tmp_path: Path
) -> None:
    """Callers at once are gathered up to the largest number of rows, and nobody is refused."""
    path = torch_models.export(
        torch_models.iris(), tmp_path / "bounded.pt2", torch.ones(2, 4),
        sizes=({0: torch.export.Dim("rows", min=1, max=16)},),
    )  # fmt: skip
    (tmp_path / "body.json").write_text(json.dumps(body(ROWS[:1])))
    serving.push(path, "bounded", "--trust-code", "--example", str(tmp_path / "body.json"))
    serving.ok("deploy", "bounded", "--max-batch-size", "64", "--max-queue-delay", "300")
    url = f"http://127.0.0.1:{serving.port}/v2/models/bounded/infer"

    async def ask(client: httpx.AsyncClient, row: int) -> Any:
        response = await client.post(url, json=body(ROWS[row % 5][None]))
        assert response.status_code == 200, response.text
        outputs = {item["name"]: item["data"] for item in response.json()["outputs"]}
        return outputs["probabilities"]

    async def all_at_once() -> list[Any]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            return await asyncio.gather(*(ask(client, row) for row in range(100)))

    answers = np.array(asyncio.run(all_at_once()))
    np.testing.assert_allclose(answers, np.tile(expected("exported"), (20, 1)), rtol=1e-4)
    counts = {
        kind: serving.gateway_metric(f"salver_batch_size_{kind}", endpoint="bounded") or 0.0
        for kind in ("sum", "count")
    }
    # Of so many at once some ran together.
    assert counts["sum"] > counts["count"]


def test_a_model_of_its_own_comes_from_the_zygote(serving: Server) -> None:
    """A worker that starts on demand, forked beside the imported torch, answers and stays."""
    serving.ok("deploy", "exported", "--endpoint", "own", "--hosting", "dedicated",
               "--min-replicas", "0", "--idle", "1h")  # fmt: skip
    url = f"http://127.0.0.1:{serving.port}/v2/models/own/infer"
    assert httpx.post(url, json=body(ROWS), timeout=60).status_code == 200
    logs = "".join(path.read_text() for path in (serving.home / "logs").glob("*"))
    assert "threads run in the zygote" not in logs
    assert "could not be imported" not in logs


@pytest.mark.parametrize("path", [torch_models.iris_script, torch_models.iris_exported])
@pytest.mark.parametrize("options", [(), ("--runtime", "torch")])
def test_nothing_of_pytorch_is_loaded_without_trust(
    serving: Server, path: Callable[[], Path], options: tuple[str, ...]
) -> None:
    """A good file is refused too, with a code, the reason and the option that lets it in."""
    done = serving.salver("push", str(path()), "--name", "stranger", *options)
    assert done.returncode == 1
    assert b"[code_refused]" in done.stderr
    assert b"--trust-code" in done.stderr
    assert b"PyTorch" in done.stderr
    assert "stranger" not in [item["name"] for item in serving.json("get", "models")]


def test_no_worker_is_shared(serving: Server) -> None:
    """What may run code has a process of its own, whatever is asked for."""
    done = serving.salver("deploy", "script", "--endpoint", "both", "--hosting", "shared")
    assert done.returncode == 1
    assert b"[hosting_refused]" in done.stderr


def test_what_torch_save_wrote_is_refused_at_the_push(serving: Server, tmp_path: Path) -> None:
    """The command says with a code how to save the model."""
    torch.save(torch_models.iris(), tmp_path / "model.pt")
    done = serving.salver("push", str(tmp_path / "model.pt"), "--name", "pickled")
    assert done.returncode == 1
    assert b"[pickle_refused]" in done.stderr
    assert b"torch.export.save" in done.stderr
    assert "pickled" not in [item["name"] for item in serving.json("get", "models")]
