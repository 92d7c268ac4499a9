"""`h2load` asks a whole server many times at once, over gRPC and over REST, on both ports.

It counts statuses but reads no trailers. A gRPC call that failed brings no message, so the bytes
that came tell whether every call was answered as the first one was.
"""

import json
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest

from bench.grpc_message import PATH, infer_request, numbers, raw_outputs, with_prefix
from bench.h2load import parse
from tests.e2e.server import Server
from tests.e2e.test_clients import deploy_double

CALLS, CONNECTIONS, STREAMS = 2000, 4, 16
ROWS = np.array([[1.5, 2.5], [3.5, 4.5]], np.float32)
EXPECTED = [3.0, 5.0, 7.0, 9.0]
GRPC = {"content-type": "application/grpc", "te": "trailers"}
JSON = {"content-type": "application/json"}


def rest_body() -> bytes:
    """Return the request as JSON."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": ROWS.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def grpc_body(model: str = "double") -> bytes:
    """Return the request as a message with raw contents."""
    return with_prefix(infer_request(model, "x", ROWS.shape, ROWS.tobytes()))


def answer_of(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return what one call brings, over HTTP/2."""
    with httpx.Client(http1=False, http2=True, timeout=20) as client:
        response = client.post(url, content=body, headers=headers)
    assert response.status_code == 200
    return response.content


def h2load(url: str, body: Path, headers: dict[str, str]) -> tuple[int, int, int]:
    """Send a body CALLS times; returns how many were answered, how many not, and bytes of data."""
    done = subprocess.run(
        [
            "h2load", "-t1", f"-n{CALLS}", f"-c{CONNECTIONS}", f"-m{STREAMS}", f"--data={body}",
            *(f"--header={name}: {value}" for name, value in headers.items()), url,
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    totals = parse(done.stdout)
    return totals.succeeded, totals.failed, totals.data_bytes


def address(server: Server, port: str) -> str:
    """Return the base URL of a port."""
    return f"http://127.0.0.1:{server.port}" if port == "data" else f"http://{server.grpc_target}"


@pytest.mark.parametrize("port", ["data", "grpc"])
def test_every_call_over_grpc_is_answered(server: Server, tmp_path: Path, port: str) -> None:
    """Thousands of ModelInfer calls on a few connections all bring the right message."""
    deploy_double(server, tmp_path)
    url = address(server, port) + PATH
    body = tmp_path / "call.bin"
    body.write_bytes(grpc_body())
    answer = answer_of(url, body.read_bytes(), GRPC)
    (output,) = raw_outputs(answer[5:]).values()
    assert numbers(*output) == EXPECTED
    assert h2load(url, body, GRPC) == (CALLS, 0, CALLS * len(answer))


@pytest.mark.parametrize("port", ["data", "grpc"])
def test_every_call_over_rest_is_answered(server: Server, tmp_path: Path, port: str) -> None:
    """Thousands of requests over HTTP/2 with prior knowledge all bring the right document."""
    deploy_double(server, tmp_path)
    url = address(server, port) + "/v2/models/double/infer"
    body = tmp_path / "request.json"
    body.write_bytes(rest_body())
    answer = answer_of(url, body.read_bytes(), JSON)
    assert json.loads(answer)["outputs"][0]["data"] == EXPECTED
    assert h2load(url, body, JSON) == (CALLS, 0, CALLS * len(answer))


def test_failed_calls_are_seen(server: Server, tmp_path: Path) -> None:
    """Calls for an unknown endpoint bring no message over gRPC and another status over REST."""
    url, body = address(server, "grpc"), tmp_path / "body"
    body.write_bytes(grpc_body("none"))
    assert h2load(url + PATH, body, GRPC) == (CALLS, 0, 0)
    body.write_bytes(rest_body())
    answered, failed, _ = h2load(f"{url}/v2/models/none/infer", body, JSON)
    assert (answered, failed) == (0, CALLS)
