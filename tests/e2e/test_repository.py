"""Models are loaded and unloaded over the data port by Triton's own clients."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests import models
from tests.e2e.server import Server, ask, wait_until
from tests.e2e.test_keys import new_key

GONE = (404, "endpoint_not_found")


class Managed:
    """A server with keys whose admins may load and unload."""

    def __init__(self, folder: Path, *options: str, settings: str = "") -> None:
        file = folder / "keys.yaml"
        file.write_text("keys:\n")
        self.admin = new_key(file, "--principal", "alice", "--admin")
        self.limited = new_key(file, "--principal", "bob", "--admin", "--endpoints", "limited")
        self.plain = new_key(file, "--principal", "carol")
        home = folder / "home"
        home.mkdir()
        (home / "salver.yaml").write_text(f"http: {{repository_changes: true}}\n{settings}")
        self.server = Server(home, "--api-keys", str(file), *options)

    def answer(self, endpoint: str) -> tuple[int, Any]:
        """Ask for twice 4 on a connection of its own; returns status and number or code."""
        status, document = ask(self.server.port, endpoint, 4.0, {"X-API-Key": self.plain})
        return status, document["outputs"][0]["data"][0] if status == 200 else document["code"]

    def push(self, folder: Path, name: str, scale: int = 2) -> None:
        """Push a model that multiplies."""
        folder.mkdir(exist_ok=True)
        example = folder / "rows.json"
        example.write_text("[[1.0, 2.0]]")
        self.server.push(models.onnx_identity("FP32", scale), name, "--example", str(example))

    def http(self) -> Any:
        """Return a client of REST."""
        return tritonclient.http.InferenceServerClient(
            f"127.0.0.1:{self.server.port}", network_timeout=120
        )

    def grpc(self) -> Any:
        """Return a client of gRPC."""
        return tritonclient.grpc.InferenceServerClient(self.server.grpc_target)

    def entry(self, name: str) -> Any:
        """Return a model's entry in the repository's index, as the admin sees it."""
        with self.http() as client:
            index = client.get_model_repository_index(headers={"X-API-Key": self.admin})
        return next((item for item in index if item["name"] == name), None)


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """Give such a server with two gateways and an endpoint that nobody touches."""
    folder = tmp_path_factory.mktemp("managed")
    made = Managed(folder, "--gateways", "2")
    with made.server as server:
        server.deploy_scaled(folder)
        yield made


def code_of(error: InferenceServerException) -> tuple[str, str]:
    """Return the status of a refusal and what stands in it."""
    return error.status(), error.message()


def test_off_by_default(server: Server) -> None:
    """A server as it is installed refuses both clients, whatever the model is called."""
    target = f"127.0.0.1:{server.port}"
    with (
        tritonclient.http.InferenceServerClient(target) as rest,
        tritonclient.grpc.InferenceServerClient(server.grpc_target) as rpc,
    ):
        for client, status in ((rest, "501"), (rpc, "StatusCode.UNIMPLEMENTED")):
            for act in (client.load_model, client.unload_model):
                with pytest.raises(InferenceServerException) as caught:
                    act("any")
                assert code_of(caught.value)[0] == status
                assert "http.repository_changes" in code_of(caught.value)[1]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_load_and_unload(managed: Managed, tmp_path: Path, protocol: str) -> None:
    """A pushed model answers as soon as load returns, at every gateway, and no more after unload.

    The index shows it before, meanwhile and after; a second load of a served model, and a load
    after an unload, succeed.
    """
    name = f"double-{protocol}"
    managed.push(tmp_path, name)
    key = {"x-api-key": managed.admin}
    unloaded = {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}
    wait_until(lambda: managed.entry(name) == unloaded, "the index shows the pushed model")
    assert managed.answer(name) == GONE
    with managed.http() if protocol == "http" else managed.grpc() as client:
        for _ in range(2):
            client.load_model(name, headers=key)
            assert [managed.answer(name) for _ in range(20)] == [(200, 8.0)] * 20
            assert managed.entry(name)["state"] == "READY"
            before = managed.server.json("status")["plan"]
            client.load_model(name, headers=key)
            assert managed.server.json("status")["plan"] == before
            client.unload_model(name, headers=key, unload_dependents=True)
            assert [managed.answer(name) for _ in range(20)] == [GONE] * 20
            assert managed.entry(name) == unloaded
    assert managed.answer("scaled") == (200, 8.0)


def test_the_asynchronous_clients(managed: Managed, tmp_path: Path) -> None:
    """They load and unload, too."""
    managed.push(tmp_path, "double-aio")
    key = {"x-api-key": managed.admin}

    async def talk() -> None:
        async with tritonclient.http.aio.InferenceServerClient(
            f"127.0.0.1:{managed.server.port}"
        ) as client:
            await client.load_model("double-aio", headers=key)
            assert managed.answer("double-aio") == (200, 8.0)
        async with tritonclient.grpc.aio.InferenceServerClient(
            managed.server.grpc_target
        ) as client:
            await client.unload_model("double-aio", headers=key)
            assert managed.answer("double-aio") == GONE

    asyncio.run(talk())


def test_who_may_not(managed: Managed) -> None:
    """A key that is no admin's, or an admin's for other endpoints, is refused; nothing changes."""
    with managed.http() as rest, managed.grpc() as rpc:
        for client, status in ((rest, "403"), (rpc, "StatusCode.PERMISSION_DENIED")):
            for key in (managed.plain, managed.limited):
                for act in (client.load_model, client.unload_model):
                    with pytest.raises(InferenceServerException) as caught:
                        act("scaled", headers={"x-api-key": key})
                    assert code_of(caught.value)[0] == status
    assert managed.answer("scaled") == (200, 8.0)


def test_what_does_not_exist(managed: Managed) -> None:
    """A model that nobody pushed cannot be loaded, an endpoint that is not there not unloaded."""
    key = {"x-api-key": managed.admin}
    with managed.http() as rest, managed.grpc() as rpc:
        for client, status in ((rest, "404"), (rpc, "StatusCode.NOT_FOUND")):
            for act, words in (
                (client.load_model, "no model 'nothing'"),
                (client.unload_model, "no endpoint 'nothing'"),
            ):
                with pytest.raises(InferenceServerException) as caught:
                    act("nothing", headers=key)
                assert code_of(caught.value)[0] == status
                assert words in code_of(caught.value)[1]


def test_files_and_configurations_are_not_taken(managed: Managed, tmp_path: Path) -> None:
    """Neither replaces what was pushed: the call is refused, and the model is not loaded."""
    managed.push(tmp_path, "as-pushed")
    key = {"x-api-key": managed.admin}
    with managed.grpc() as client, pytest.raises(InferenceServerException) as caught:
        client.load_model("as-pushed", headers=key, config="{}", files={"file:1/m.onnx": b"x"})
    assert code_of(caught.value)[0] == "StatusCode.UNIMPLEMENTED"
    with managed.http() as client, pytest.raises(InferenceServerException) as caught:
        client.load_model("as-pushed", headers=key, config='{"backend": "python"}')
    assert code_of(caught.value)[0] == "501"
    assert managed.answer("as-pushed") == GONE


def test_which_version_is_loaded(managed: Managed, tmp_path: Path) -> None:
    """The newest where nothing is deployed; a deployed endpoint goes on with what it follows."""
    managed.push(tmp_path, "followed", 2)
    managed.push(tmp_path, "followed", 3)
    key = {"x-api-key": managed.admin}
    with managed.http() as client:
        client.load_model("followed", headers=key)
        assert managed.answer("followed") == (200, 12.0)
        managed.server.ok("alias", "followed@live", "1")
        managed.server.ok("deploy", "followed@live", "--endpoint", "followed")
        client.load_model("followed", headers=key)
        assert managed.answer("followed") == (200, 8.0)
        client.unload_model("followed", headers=key)


def test_a_model_that_cannot_be_loaded(managed: Managed, tmp_path: Path) -> None:
    """The caller is told why, soon the index too; after unload it is as before, others serve on."""
    managed.push(tmp_path, "damaged", 5)
    content = models.onnx_identity("FP32", 5).read_bytes()
    (blob,) = (
        path
        for path in (managed.server.home / "blobs" / "sha256").glob("??/*")
        if path.read_bytes() == content
    )
    blob.write_bytes(content[:-7])
    key = {"x-api-key": managed.admin}
    with managed.http() as client:
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("damaged", headers=key)
        status, message = code_of(caught.value)
        assert status == "500"
        assert "damaged:1 could not be loaded" in message
        # Each gateway learns it with its next plan, which is not what the caller is answered by.
        wait_until(lambda: managed.entry("damaged")["reason"] in message, "the index tells why")
        assert managed.entry("damaged")["state"] == "UNAVAILABLE"
        client.unload_model("damaged", headers=key)
    assert managed.entry("damaged")["reason"] == "unloaded"
    assert managed.answer("scaled") == (200, 8.0)


def audit(server: Server) -> Any:
    """Return the audit log."""
    token = (server.home / "control.token").read_text()
    url = f"{server.state()['control_url']}/api/v1/events"
    return httpx.get(url, headers={"authorization": f"Bearer {token}"}).json()


def test_it_is_written_down(managed: Managed, tmp_path: Path) -> None:
    """The audit and the logs of both processes say who changed what, and how it ended."""
    managed.push(tmp_path, "audited")
    with managed.http() as client:
        for act in (client.load_model, client.unload_model):
            act("audited", headers={"x-api-key": managed.admin})
        with pytest.raises(InferenceServerException):
            client.unload_model("audited", headers={"x-api-key": managed.admin})
    events = [item for item in audit(managed.server) if item["subject"] == "audited"]
    assert [(item["actor"], item["action"]) for item in events] == [
        ("alice", "unload"),
        ("alice", "load"),
    ]
    assert {item["details"]["model"] for item in events} == {"audited", "audited:1"}
    logs = managed.server.home / "logs"
    for files in (["control.log"], ["gateway-0.log", "gateway-1.log"]):
        lines = [
            json.loads(line)
            for file in files
            for line in (logs / file).read_text().splitlines()
            if '"repository_change"' in line and '"audited"' in line
        ]
        assert sorted((line["action"], line["principal"], line["code"]) for line in lines) == [
            ("load", "alice", ""),
            ("unload", "alice", ""),
            ("unload", "alice", "endpoint_not_found"),
        ]


def test_control_dies(tmp_path: Path) -> None:
    """A change that waits for control, and one while it is away, is a coded 503 with a pause.

    Everything deployed serves on, and loading works when control is back.
    """
    managed = Managed(tmp_path, settings="supervisor: {backoff_initial_s: 4}\n")
    key = {"x-api-key": managed.admin}
    away = (503, "control_unavailable", True)
    with managed.server as server, ThreadPoolExecutor(1) as pool:
        server.deploy_scaled(tmp_path)
        managed.push(tmp_path, "late")
        pid = server.pid_of("control")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        sent = Event()
        waiting = pool.submit(load, managed, "late", sent)
        assert sent.wait(30)
        # What is answered now was sent after the load, so that is on its way to control.
        assert managed.answer("scaled") == (200, 8.0)
        assert not waiting.done()
        os.kill(pid, signal.SIGKILL)
        assert waiting.result(timeout=30) == away
        assert load(managed, "late") == away
        with managed.grpc() as client, pytest.raises(InferenceServerException) as caught:
            client.load_model("late", headers=key)
        assert code_of(caught.value)[0] == "StatusCode.UNAVAILABLE"
        assert managed.answer("scaled") == (200, 8.0)
        wait_until(lambda: load(managed, "late")[0] == 200, "control is back")
        assert managed.answer("late") == (200, 8.0)


def load(managed: Managed, name: str, sent: Event | None = None) -> tuple[int, str, bool]:
    """Load a model; returns the status, the code, and whether a pause was named."""
    connection = HTTPConnection("127.0.0.1", managed.server.port, timeout=60)
    try:
        path = f"/v2/repository/models/{name}/load"
        connection.request("POST", path, headers={"X-API-Key": managed.admin})
        if sent is not None:
            sent.set()
        response = connection.getresponse()
        document = json.loads(response.read())
        return response.status, document.get("code", ""), "retry-after" in response.headers
    finally:
        connection.close()
