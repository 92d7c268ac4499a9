"""A home folder whose path is longer than the address of a Unix socket."""

from functools import partial
from pathlib import Path

from tests import models
from tests.e2e.server import Server, ask, wait_until

ENDPOINTS = ("scaled", "own", "rare")
PROCESSES = ("shared-0", "dedicated-own-1-0", "gateway-0", "control")


def answers(server: Server, endpoint: str) -> bool:
    """Tell whether an endpoint answers on a new connection."""
    try:
        status, document = ask(server.port, endpoint, 3.0)
    except OSError:
        return False
    return status == 200 and document["outputs"][0]["data"] == [6.0]


def test_everything_works_in_a_long_home(tmp_path: Path) -> None:
    """Shared workers, own ones and those on demand answer, also after each process died."""
    home = tmp_path / ("long-" * 40) / "home"
    home.parent.mkdir()
    with Server(home) as server:
        server.deploy_scaled(tmp_path)
        for name, options in (("own", ()), ("rare", ("--min-replicas", "0"))):
            server.push(models.onnx_identity("FP32", 2), name)
            server.ok("deploy", name, "--hosting", "dedicated", *options)
        for identity in PROCESSES:
            server.kill(identity)
            for endpoint in ENDPOINTS:
                wait_until(partial(answers, server, endpoint), f"{endpoint} answers")
        wait_until(lambda: server.salver("status").returncode == 0, "control answers")
