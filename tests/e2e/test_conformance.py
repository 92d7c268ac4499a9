"""The conformance suite against a whole server of our own, over REST and gRPC."""

import json

from tests import models
from tests.e2e.server import Server, run


def test_every_check_passes(server: Server) -> None:
    """A real model behind a real server does what each sentence of the protocol says."""
    server.push(models.onnx_breast_cancer(), "cancer")
    server.ok("deploy", "cancer")
    url = f"http://127.0.0.1:{server.port}"
    done = run("conformance", url, "--grpc", server.grpc_target, "--model", "cancer", "-o", "json")
    assert done.returncode == 0, done.stdout.decode()
    report = json.loads(done.stdout)
    failed = [check for check in report["checks"] if check["verdict"] == "failed"]
    assert failed == []
    sections = {check["name"].partition(".")[0] for check in report["checks"]}
    assert {"grpc", "binary", "infer"} <= sections
