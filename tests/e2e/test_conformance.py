"""The conformance suite against a whole server of our own, over REST and gRPC."""

import json

from tests import models
from tests.e2e.server import Server, run


def test_every_check_passes(server: Server) -> None:
    """Real models behind a real server do what each sentence of the protocol says."""
    for name, path in (("cancer", models.onnx_breast_cancer()), ("pair", models.onnx_pair())):
        server.push(path, name)
        server.ok("deploy", name)
    asked = ("--grpc", server.grpc_target, "--model", "cancer", "--model", "pair")
    done = run("conformance", f"http://127.0.0.1:{server.port}", *asked, "-o", "json")
    assert done.returncode == 0, done.stdout.decode()
    report = json.loads(done.stdout)
    failed = [check for check in report["checks"] if check["verdict"] == "failed"]
    assert failed == []
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    assert verdicts["binary.mixed_inputs"] == "passed"
    sections = {check["name"].partition(".")[0] for check in report["checks"]}
    assert {"grpc", "binary", "infer"} <= sections
