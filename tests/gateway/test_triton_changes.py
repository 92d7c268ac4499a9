"""Who may load and unload over the data port, what is refused before control is asked, and when.

Control is a function here, so that it can be made to wait; tests/e2e has the real one.
"""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec
import orjson
import pytest
import tritonclient.grpc
import tritonclient.http
import yaml
from tritonclient.utils import InferenceServerException

from salver.core.context import Principal
from salver.core.errors import LoadFailed, Overloaded, SalverError
from salver.core.tls import ServerTls
from salver.gateway.triton.changes import Wanted
from salver.wire.messages import Change
from tests.certificates import Authority
from tests.gateway.grpc.calls import SERVICE, call, message, refused
from tests.gateway.inprocess import PLAN, RunningServer, exchange_bytes, post, split_reply, until
from tests.gateway.test_auth import entry

ADMIN, LIMITED, PLAIN, FOREIGN, BUSY = "admin", "limited", "plain", "foreign", "busy"
UNSUPPORTED, FORBIDDEN = (501, "unsupported_operation"), (403, "forbidden")
UNLOADED = msgspec.structs.replace(PLAN, unloaded=("idle", "spare"))


class Control:
    """Stands for control: keeps what it is asked, and answers at once, or when it is let."""

    def __init__(self) -> None:
        self.asked: list[tuple[Change, float]] = []
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, change: Change, timeout_s: float) -> None:
        """Answer, when nothing holds it back."""
        self.asked.append((change, timeout_s))
        await self.go.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Write a file with admins and others."""
    path = tmp_path / "keys.yaml"
    entries = [
        entry(ADMIN, principal="alice", admin=True),
        entry(LIMITED, principal="bob", admin=True, endpoints=["two", "spare"]),
        entry(PLAIN, principal="carol"),
        entry(FOREIGN, principal="dave", tenant="others", admin=True),
        entry(BUSY, principal="erin", admin=True, max_in_flight=1),
    ]
    path.write_text(yaml.safe_dump({"keys": entries}))
    return path


@pytest.fixture
def control() -> Control:
    """Give a control that answers."""
    return Control()


@pytest.fixture
def server(keys: Path, control: Control) -> Iterator[RunningServer]:
    """Give a server whose admins may load and unload."""
    with RunningServer(keys=keys, ask=control, plan=UNLOADED) as running:
        yield running


def change(
    server: RunningServer, key: str, path: str = "models/two/load", body: bytes = b""
) -> tuple[int, str]:
    """Ask for a change over REST; returns the status and the code."""
    request = post(f"/v2/repository/{path}", body, *([f"X-API-Key: {key}"] if key else []))
    status, _, text = split_reply(exchange_bytes(server.port, request))
    return status, str(orjson.loads(text).get("code", ""))


def metadata(key: str) -> list[tuple[str, str]]:
    """Return what a call shows a key with."""
    return [("x-api-key", key)]


def test_an_admin_changes(server: RunningServer, control: Control) -> None:
    """Both clients of Triton load and unload; control hears who asked for what, and how long."""
    headers = {"X-API-Key": ADMIN}
    target = f"127.0.0.1:{server.port}"
    with tritonclient.http.InferenceServerClient(target) as client:
        client.load_model("two", headers=headers)
        client.unload_model("two", headers=headers, unload_dependents=True)
    with tritonclient.grpc.InferenceServerClient(target) as client:
        client.load_model("new", headers={"x-api-key": ADMIN})
        client.unload_model("new", headers={"x-api-key": ADMIN}, client_timeout=2.0)
    wanted = [(item.action, item.endpoint) for item, _ in control.asked]
    assert wanted == [("load", "two"), ("unload", "two"), ("load", "new"), ("unload", "new")]
    assert {(item.principal, item.tenant) for item, _ in control.asked} == {("alice", "default")}
    assert len({item.request_id for item, _ in control.asked} - {""}) == 4
    remaining = [item.remaining_us / 1e6 for item, _ in control.asked]
    assert remaining[:3] == [5.0] * 3
    assert 0 < remaining[3] < 5.0
    assert all(
        timeout_s > left for left, (_, timeout_s) in zip(remaining, control.asked, strict=True)
    )


def test_off_unless_it_is_switched_on(keys: Path) -> None:
    """An admin is refused like everybody else, and told of the setting and of the commands."""
    with RunningServer(keys=keys) as server:
        for action, command in (("load", "salver deploy two"), ("unload", "salver undeploy two")):
            assert change(server, ADMIN, f"models/two/{action}") == UNSUPPORTED
            with (
                tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client,
                pytest.raises(InferenceServerException, match=command) as caught,
            ):
                getattr(client, f"{action}_model")("two", headers={"X-API-Key": ADMIN})
            assert "http.repository_changes" in str(caught.value)


@pytest.mark.parametrize("is_on", [True, False])
def test_the_extension_is_named_where_it_works(control: Control, *, is_on: bool) -> None:
    """Over REST and gRPC: an index without loads and unloads is not Triton's extension."""
    with RunningServer(ask=control if is_on else None) as server:
        target = f"127.0.0.1:{server.port}"
        with tritonclient.http.InferenceServerClient(target) as rest:
            assert ("model_repository" in rest.get_server_metadata()["extensions"]) == is_on
            assert rest.get_model_repository_index()
        with tritonclient.grpc.InferenceServerClient(target) as rpc:
            assert ("model_repository" in rpc.get_server_metadata().extensions) == is_on
            assert rpc.get_model_repository_index().models


def test_off_is_the_default() -> None:
    """Nobody has to switch it off."""
    with RunningServer() as server:
        assert not server.settings.repository_changes


def test_nobody_else_changes(server: RunningServer, control: Control) -> None:
    """No key, a key that is no admin's, and one for other endpoints are refused before control."""
    for action in ("load", "unload"):
        assert change(server, "", f"models/two/{action}") == (401, "unauthenticated")
        assert change(server, PLAIN, f"models/two/{action}") == FORBIDDEN
        assert change(server, PLAIN, f"models/none/{action}") == FORBIDDEN
        assert change(server, LIMITED, f"models/hidden/{action}") == FORBIDDEN
        assert change(server, LIMITED, f"models/two/{action}") == (200, "")
    assert len(control.asked) == 2


def test_without_keys_nobody_is_an_admin(control: Control) -> None:
    """Where everybody may call, nobody may load."""
    with RunningServer(ask=control) as server:
        assert change(server, "") == FORBIDDEN
    assert not control.asked


def test_nobody_else_changes_over_grpc(server: RunningServer, control: Control) -> None:
    """The same over gRPC, with its own statuses."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for action in ("Load", "Unload"):
            path = f"{SERVICE}/RepositoryModel{action}"
            request = message(f"RepositoryModel{action}Request", model_name="hidden")
            denied = (grpc.StatusCode.PERMISSION_DENIED, "forbidden")
            assert refused(channel, path, request, metadata=metadata(PLAIN)) == denied
            assert refused(channel, path, request, metadata=metadata(LIMITED)) == denied
            assert refused(channel, path, request)[0] == grpc.StatusCode.UNAUTHENTICATED
    assert not control.asked


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"parameters": {"config": "{}"}}', UNSUPPORTED),
        (b'{"parameters": {"file:1/model.onnx": "AAAA"}}', UNSUPPORTED),
        (b'{"parameters": {"unload_dependents": true}}', UNSUPPORTED),
        (b'{"parameters": []}', (400, "invalid_request")),
        (b"[]", (400, "invalid_request")),
        (b"{", (400, "invalid_json")),
        (json.dumps({"parameters": {"file:m": "A" * 70_000}}).encode(), (413, "body_too_large")),
        (b"{}", (200, "")),
        (b'{"parameters": {}}', (200, "")),
    ],
)
def test_what_is_sent_along(
    server: RunningServer, control: Control, body: bytes, expected: tuple[int, str]
) -> None:
    """Files and configurations are refused, and so is whatever is no object of parameters."""
    assert change(server, ADMIN, body=body) == expected
    assert bool(control.asked) == (expected[0] == 200)
    if expected[0] != 200:
        assert change(server, PLAIN, body=body) == FORBIDDEN


def test_what_is_sent_along_to_unload(server: RunningServer, control: Control) -> None:
    """Whether dependents go too may be said, since there are none; nothing else."""
    unload = "models/two/unload"
    for value, expected in ((b"true", (200, "")), (b"1", (400, "invalid_request"))):
        body = b'{"parameters": {"unload_dependents": %b}}' % value
        assert change(server, ADMIN, unload, body) == expected
    assert change(server, ADMIN, unload, b'{"parameters": {"config": ""}}') == UNSUPPORTED
    assert len(control.asked) == 1


def test_overrides_over_grpc(server: RunningServer, control: Control) -> None:
    """Triton's client sends a configuration and files; both are refused."""
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        for options in ({"config": "{}"}, {"config": "{}", "files": {"file:1/m": b"model"}}):
            with pytest.raises(InferenceServerException, match="as it was pushed") as caught:
                client.load_model("two", headers={"x-api-key": ADMIN}, **options)
            assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert not control.asked


def test_names(server: RunningServer, control: Control) -> None:
    """A bad name, and a repository by name, are refused; control sees neither."""
    assert change(server, ADMIN, "models/a%20b/load") == (400, "invalid_name")
    assert change(server, ADMIN, "r/models/two/load") == UNSUPPORTED
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        path = f"{SERVICE}/RepositoryModelLoad"
        for fields, code in (
            ({"model_name": "../two"}, "invalid_name"),
            ({"model_name": ""}, "invalid_name"),
            ({"model_name": "two", "repository_name": "r"}, "unsupported_operation"),
        ):
            request = message("RepositoryModelLoadRequest", **fields)
            assert refused(channel, path, request, metadata=metadata(ADMIN))[1] == code
    assert not control.asked


def test_what_control_refuses_reaches_the_caller(server: RunningServer, control: Control) -> None:
    """The code, the reason and the pause come through on both protocols, and our own faults do."""
    control.error = LoadFailed("two:2 could not be loaded: broken file")
    assert change(server, ADMIN) == (500, "load_failed")
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        path, request = f"{SERVICE}/RepositoryModelLoad", message("RepositoryModelLoadRequest")
        request.model_name = "two"
        failed = refused(channel, path, request, metadata=metadata(ADMIN))
        assert failed == (grpc.StatusCode.FAILED_PRECONDITION, "load_failed")
        control.error = Overloaded("too many", retry_after_s=3.0)
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, path, request, metadata=metadata(ADMIN))
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert ("grpc-retry-pushback-ms", "3000") in (caught.value.trailing_metadata() or ())
    request_bytes = post("/v2/repository/models/two/load", b"", f"X-API-Key: {ADMIN}")
    status, headers, _ = split_reply(exchange_bytes(server.port, request_bytes))
    assert (status, headers["retry-after"]) == (503, "3")
    control.error = RuntimeError("a fault")
    assert change(server, ADMIN) == (500, "internal")


def test_an_open_change_counts_for_its_caller(server: RunningServer, control: Control) -> None:
    """It takes a place of its caller's quota until it is answered, whether he stays or not."""
    load = post("/v2/repository/models/two/load", b"", f"X-API-Key: {BUSY}", close=False)
    server.run(control.go.clear)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(load)
        until(lambda: len(control.asked) == 1)
        assert change(server, BUSY) == (429, "quota_exceeded")
        assert "two" in index(server, PLAIN)
    server.run(control.go.set)
    until(lambda: change(server, BUSY) == (200, ""))


def test_requests_behind_a_change_keep_their_order(server: RunningServer, control: Control) -> None:
    """On one connection the answer to a change comes before those that were asked for later."""
    server.run(control.go.clear)
    key = f"X-API-Key: {ADMIN}"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            post("/v2/repository/models/two/load", b"", key, close=False)
            + post("/v2/repository/models/none/x", b"", key)
        )
        until(lambda: len(control.asked) == 1)
        server.run(control.go.set)
        answer = b""
        while part := client.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"route_not_found" in answer


def test_a_gateway_that_stops_answers(server: RunningServer, control: Control) -> None:
    """Open changes are answered at once, later ones are refused."""
    server.run(control.go.clear)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        answer = channel.unary_unary(
            f"/{SERVICE}/RepositoryModelLoad",
            request_serializer=lambda item: item.SerializeToString(),
            response_deserializer=lambda data: data,
        ).future(message("RepositoryModelLoadRequest", model_name="two"), metadata=metadata(ADMIN))
        until(lambda: len(control.asked) == 1)
        server.run(server.changes.drain)
        with pytest.raises(grpc.RpcError) as caught:
            answer.result(timeout=10)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert ("x-salver-code", "draining") in (caught.value.trailing_metadata() or ())
    assert change(server, ADMIN) == (503, "draining")
    assert change(server, BUSY) == (503, "draining")


def test_a_change_that_has_just_come_when_it_stops(server: RunningServer, control: Control) -> None:
    """It is answered too, and its caller's place is free again."""
    alice, outcomes = Principal("alice", is_admin=True), list[SalverError | None]()

    def stop() -> None:
        wanted = Wanted("load", "two", "", alice, "r-1", dict)
        server.changes.begin(wanted, outcomes.append)
        server.changes.drain()

    server.run(control.go.clear)
    server.run(stop)
    until(lambda: bool(outcomes))
    assert [error.code for error in outcomes if error is not None] == ["draining"]
    assert alice.in_flight == 0


def index(server: RunningServer, key: str, body: bytes = b"{}") -> dict[str, Any]:
    """Return the entries of the repository's index by name."""
    request = post("/v2/repository/index", body, f"X-API-Key: {key}")
    document = orjson.loads(split_reply(exchange_bytes(server.port, request))[2])
    return {item["name"]: item for item in document}


def test_the_index_shows_admins_what_they_may_load(server: RunningServer) -> None:
    """Models without an endpoint are listed as unloaded, to nobody who may not load them."""
    expected = {"name": "idle", "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert index(server, ADMIN)["idle"] == expected
    assert set(index(server, LIMITED)) == {"two", "spare"}
    for shown in (
        index(server, PLAIN),
        index(server, FOREIGN),
        index(server, ADMIN, b'{"ready": true}'),
    ):
        assert not {"idle", "spare"} & set(shown)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        path = f"{SERVICE}/RepositoryIndex"
        answer = call(channel, path, message("RepositoryIndexRequest"), metadata=metadata(ADMIN))
        assert [m.reason for m in answer.models if m.name == "spare"] == ["unloaded"]


def test_a_certificate_may_be_an_admins(tmp_path: Path, control: Control) -> None:
    """The entry of a certificate's subject says so, as that of a key does."""
    authority = Authority(tmp_path)
    own = authority.issue("server")
    tls = ServerTls(own.certificate, own.key, authority.file, clients_must=False)
    keys = tmp_path / "keys.yaml"
    entries = [
        {"subject": "alice", "principal": "alice", "admin": True},
        {"subject": "bob", "principal": "bob"},
    ]
    keys.write_text(yaml.safe_dump({"keys": entries}))
    with RunningServer(keys=keys, tls=tls, ask=control) as server:
        url = f"https://127.0.0.1:{server.port}/v2/repository/models/two/load"
        for name, status in (("alice", 200), ("bob", 403)):
            with httpx.Client(verify=authority.client(authority.issue(name))) as client:
                assert client.post(url).status_code == status
    assert [item.principal for item, _ in control.asked] == ["alice"]
