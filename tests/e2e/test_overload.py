"""More is asked than can be answered: who floods is refused with a code, others are served."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from tests import models
from tests.e2e.load import Load
from tests.e2e.server import Server, ask, wait_until
from tests.e2e.test_keys import new_key
from tests.gateway.grpc.calls import begun, infer_request, two_rows

SETTINGS = {
    "engine": {"max_in_flight": 2},
    "limits": {"max_waiting": 24, "max_waiting_per_caller": 16},
}
FLOODING = 64


class Crowded:
    """A server with a slow model that takes two requests at a time, and keys for three callers."""

    def __init__(self, folder: Path) -> None:
        home = folder / "home"
        home.mkdir()
        (home / "salver.yaml").write_text(yaml.safe_dump(SETTINGS))
        file = folder / "keys.yaml"
        file.write_text("keys:\n")
        self.alice = new_key(file, "--principal", "alice")
        self.bob = new_key(file, "--principal", "bob")
        self.carol = new_key(file, "--principal", "carol", "--rate", "0.01", "--burst", "2")
        self.server = Server(home, "--api-keys", str(file))

    def flood(self) -> Load:
        """Return many callers with one key that ask without a pause."""
        return Load(self.server.port, "scaled", FLOODING, 0.0, f"X-API-Key: {self.alice}")

    def refusal(self, key: str) -> tuple[grpc.StatusCode, dict[str, str]] | None:
        """Ask over gRPC; returns the status and trailers of a refusal, None for an answer."""
        request = infer_request("scaled", {"x": two_rows([1.0])})
        metadata = (("x-api-key", key),)
        with grpc.insecure_channel(self.server.grpc_target) as channel:
            ended = begun(channel, request, metadata=metadata)
            if ended.code() is grpc.StatusCode.OK:
                return None
            return ended.code(), {name: str(v) for name, v in ended.trailing_metadata() or ()}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowded]:
    """Give the server, with its model deployed."""
    folder = tmp_path_factory.mktemp("crowded")
    made = Crowded(folder)
    with made.server as server:
        server.deploy_scaled(folder, path=models.onnx_slow(2))
        yield made


def test_a_flood_by_one_caller(crowded: Crowded) -> None:
    """The flood gets answers and coded refusals, over gRPC too; nobody else is refused.

    Every request of everybody has one answer, and it is its own.
    """
    server = crowded.server
    with crowded.flood() as load:
        wait_until(lambda: load.failed.total() > 0 and load.answered > 0, "the flood is refused")
        for number in range(30):
            status, document = ask(server.port, "scaled", number, {"X-API-Key": crowded.bob})
            assert (status, document["outputs"][0]["data"]) == (200, [2.0 * number])
        refused = [found for _ in range(30) if (found := crowded.refusal(crowded.alice))]
        assert crowded.refusal(crowded.bob) is None
        waiting = server.gateway_metric("salver_requests_waiting", variant="scaled:1")
        assert waiting is not None
        assert 0 < waiting <= 24
    assert set(load.failed) == {"503 overloaded retry-after"}
    assert load.wrong == load.broken == load.refused == 0
    assert refused
    for status, trailers in refused:
        assert status is grpc.StatusCode.UNAVAILABLE
        assert trailers["x-salver-code"] == "overloaded"
        assert int(trailers["grpc-retry-pushback-ms"]) > 0
    assert server.gateway_metric("salver_requests_crowded_out_total", variant="scaled:1")
    assert server.gateway_metric("salver_concurrency_limit", variant="scaled:1") == 2


def test_after_the_flood_nothing_is_left(crowded: Crowded) -> None:
    """When it is over nothing waits or is open, and the flooding caller is served as before."""
    server = crowded.server
    wait_until(lambda: server.in_flight("scaled") == 0, "nothing is open")
    assert server.gateway_metric("salver_requests_waiting", variant="scaled:1") == 0
    assert ask(server.port, "scaled", 4.0, {"X-API-Key": crowded.alice})[0] == 200


def test_a_caller_over_its_rate(crowded: Crowded) -> None:
    """It is refused with 429 over REST and RESOURCE_EXHAUSTED over gRPC, from one rate."""
    key = {"X-API-Key": crowded.carol}
    assert ask(crowded.server.port, "scaled", 4.0, key)[0] == 200
    assert crowded.refusal(crowded.carol) is None
    status, document = ask(crowded.server.port, "scaled", 4.0, key)
    assert (status, document["code"]) == (429, "quota_exceeded")
    refused = crowded.refusal(crowded.carol)
    assert refused is not None
    assert refused[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused[1]["x-salver-code"] == "quota_exceeded"
    assert int(refused[1]["grpc-retry-pushback-ms"]) > 1000
