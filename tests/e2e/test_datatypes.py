"""Models of every datatype, asked by unmodified clients of other servers."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from salver.core.datatypes import DATATYPES
from tests import models
from tests.e2e.server import Server
from tests.e2e.test_clients import KSERVE_PYTHON, ROOT

CLIENTS = (
    "triton-http", "triton-json", "triton-grpc",
    "kserve-http", "kserve-json", "kserve-grpc", "kserve-typed",
)  # fmt: skip
IN_CLIENTS = frozenset(CLIENTS[2:])
# What the protocol has no place for, which the clients refuse to send or Salver to read.
CANNOT = {
    ("kserve-json", "FP16"),
    ("kserve-typed", "FP16"),
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], dict[str, str]]]:
    """Give what a client saw of one server, which has an ONNX identity for each datatype."""
    folder = tmp_path_factory.mktemp("datatypes")
    with Server(folder / "home") as server:

        def deploy(datatype: str) -> None:
            data = {"BOOL": [True, False], "BYTES": ["a", ""]}.get(datatype, [0, 1])
            tensor = {"name": "x", "datatype": datatype, "shape": [1, 2], "data": data}
            example = folder / f"{datatype}.json"
            example.write_text(json.dumps({"inputs": [tensor]}))
            name = f"identity-{datatype.lower()}"
            server.push(models.onnx_identity(datatype), name, "--example", str(example))
            server.ok("deploy", name)

        for datatype in DATATYPES:
            models.onnx_identity(datatype)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(deploy, DATATYPES))

        @functools.cache
        def ask(client: str) -> dict[str, str]:
            script = ROOT / "tests" / "clients" / "datatype_calls.py"
            # tritonclient's http client is here, the others are where kserve is.
            python = KSERVE_PYTHON if client in IN_CLIENTS else sys.executable
            url = f"http://127.0.0.1:{server.port}"
            done = subprocess.run(
                [str(python), str(script), client, url, server.grpc_target],
                capture_output=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr.decode()
            found: dict[str, str] = json.loads(done.stdout.decode().splitlines()[-1])
            return found

        yield ask


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("client", CLIENTS)
def test_every_datatype_with_every_client(
    seen: Callable[[str], dict[str, str]], client: str, datatype: str
) -> None:
    """Values at the ends of each datatype come back through ONNX Runtime as they were."""
    came = seen(client)[datatype]
    if (client, datatype) in CANNOT:
        assert came != "same", "it can be sent: take it off the list"
    else:
        assert came == "same"
