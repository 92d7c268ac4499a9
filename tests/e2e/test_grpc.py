"""gRPC against a real server: unmodified clients, both ports, and REST over HTTP/2."""

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.e2e.server import Server
from tests.e2e.test_clients import KSERVE_PYTHON, ROOT, deploy_double

EXPECTED = [[3.0, 5.0], [7.0, 9.0]]


@pytest.mark.parametrize("port", ["data", "grpc"])
def test_clients(server: Server, tmp_path: Path, port: str) -> None:
    """tritonclient and kserve get their answers on the data port and on the port of gRPC.

    Streams of tritonclient are answered, each request with its own answer or error.
    """
    deploy_double(server, tmp_path)
    target = f"127.0.0.1:{server.port}" if port == "data" else server.grpc_target
    seen = {"live": True, "ready": True, "model_ready": True}
    assert calls("triton", target) == {
        **seen,
        "name": "salver",
        "inputs": ["x"],
        "answer": EXPECTED,
        "packed": EXPECTED,
        "id": "from-triton",
        "unknown": "StatusCode.NOT_FOUND",
        "aio": [EXPECTED, [[None, "0"], [None, "1"]]],
        "config": ["double", "TYPE_FP32"],
        "statistics": [["double", True]],
        "index": [["double", "READY"]],
        "trace": ["OFF"],
        "log_info": {"bool_param": True},
        "regions": {},
        "streamed": [[["0", EXPECTED], ["2", EXPECTED]], [True]],
    }
    assert calls("kserve", target) == {
        **seen,
        "typed": EXPECTED,
        "raw": EXPECTED,
        "id": "from-kserve",
    }


def calls(client: str, target: str) -> object:
    """Let a client ask, and return what it saw."""
    script = ROOT / "tests" / "clients" / "grpc_calls.py"
    done = subprocess.run(
        [str(KSERVE_PYTHON), str(script), client, target, "double"],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.decode().splitlines()[-1])


def test_rest_over_http2(server: Server, tmp_path: Path) -> None:
    """The paths of REST answer alike on both ports and in both versions of HTTP."""
    deploy_double(server, tmp_path)
    body = {
        "id": "mine",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5]}],
    }
    answers = []
    for url in (f"http://127.0.0.1:{server.port}", f"http://{server.grpc_target}"):
        for http2 in (False, True):
            with httpx.Client(http1=not http2, http2=http2, timeout=20) as client:
                response = client.post(f"{url}/v2/models/double/infer", json=body)
                assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
                assert response.status_code == 200
                answers.append(response.json())
                unknown = client.get(f"{url}/v2/models/none")
                assert (unknown.status_code, unknown.json()["code"]) == (404, "endpoint_not_found")
    assert answers == [answers[0]] * 4
    assert answers[0]["outputs"][0]["data"] == [3.0, 5.0]


def test_curl(server: Server) -> None:
    """curl with prior knowledge of HTTP/2 is answered."""
    done = subprocess.run(
        [
            "curl", "--silent", "--http2-prior-knowledge", "--write-out", "%{http_version}",
            f"http://127.0.0.1:{server.port}/v2/health/live",
        ],
        capture_output=True,
        check=True,
        timeout=30,
    )  # fmt: skip
    assert done.stdout == b'{"live":true}2'
