"""The gRPC checks pass a right server and find every defect; without grpcio they say so."""

import json
import subprocess
import sys
from pathlib import Path

from salver.conformance.catalog import checks
from tests.conformance.broken_server import TinyServer
from tests.conformance.oip_model import MODEL
from tests.conformance.test_command import conformance

ROOT = Path(__file__).parents[2]
GRPC_PYTHON = ROOT / ".venv-clients" / "bin" / "python"


def test_grpc_checks_find_every_defect() -> None:
    """With grpcio, a right server passes all, and each defect fails the check meant for it."""
    done = subprocess.run(
        [str(GRPC_PYTHON), str(ROOT / "tests" / "clients" / "grpc_conformance.py")],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout.decode().splitlines()[-1])
    whole = result["found"].pop("")
    assert {name: reason for name, (verdict, reason) in whole.items() if verdict != "passed"} == {}
    for fault, check in result["breaks"].items():
        verdict, reason = result["found"][fault][check]
        assert (fault, verdict, bool(reason)) == (fault, "failed", True)
    names = {check.name for check in checks(grpc=True)} - {c.name for c in checks(grpc=False)}
    assert names == set(whole) == set(result["breaks"].values())


def test_without_grpcio() -> None:
    """--grpc where grpcio is not installed is exit code 2 and names what to install."""
    script = "import sys; sys.modules['grpc'] = None; from salver.cli.main import main; main()"
    with TinyServer() as server:
        arguments = ["conformance", server.url, "--model", MODEL, "--grpc", "127.0.0.1:1"]
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert "pip install grpcio protobuf" in done.stderr


def test_grpc_is_loaded_only_where_it_is_asked() -> None:
    """Without --grpc the suite works where grpcio is not installed."""
    script = "import sys; sys.modules['grpc'] = None; from salver.cli.main import main; main()"
    with TinyServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", script, "conformance", server.url, "--model", MODEL],
            capture_output=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr


def test_no_grpc_address() -> None:
    """What is no gRPC address is exit code 2 and says how one is written."""
    done = conformance("http://127.0.0.1:1", "--grpc", "http://127.0.0.1:2")
    assert done.returncode == 2
    assert "write it like 127.0.0.1:8081" in done.stderr
