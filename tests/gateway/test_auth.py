"""API keys: who may call what, how much at once, and how the file is read."""

import hashlib
import os
import time
from pathlib import Path

import orjson
import pytest
import yaml

from salver.core.errors import InvalidSettings, Unauthenticated
from salver.gateway.auth import Keys
from tests.gateway.inprocess import RunningServer, exchange_bytes, post, split_reply
from tests.gateway.test_http_bad import GOOD, INFER

ALICE, BOB = "alice-secret-key", "bob-secret-key"


def entry(key: str, **more: object) -> dict[str, object]:
    """Return one line of the file."""
    return {"sha256": hashlib.sha256(key.encode()).hexdigest(), **more}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Write a file with two keys."""
    path = tmp_path / "keys.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "keys": [
                    entry(ALICE, principal="alice"),
                    entry(BOB, principal="bob", endpoints=["two"], max_in_flight=1),
                ]
            }
        )
    )
    return path


def ask(server: RunningServer, path: str, *headers: str) -> tuple[int, str, dict[str, str]]:
    """Return status, code and headers of one inference."""
    status, fields, body = split_reply(exchange_bytes(server.port, post(path, GOOD, *headers)))
    return status, orjson.loads(body).get("code", ""), fields


def test_keys_decide(keys: Path) -> None:
    """No key or a wrong one is 401, a key for other endpoints 403, a good one is served."""
    with RunningServer(keys=keys) as server:
        status, code, headers = ask(server, INFER)
        assert (status, code) == (401, "unauthenticated")
        assert headers["www-authenticate"].startswith("Bearer")
        assert ask(server, INFER, "Authorization: Bearer wrong")[:2] == (401, "unauthenticated")
        assert ask(server, INFER, f"Authorization: Bearer {ALICE}")[0] == 200
        assert ask(server, INFER, f"authorization: bearer {ALICE}")[0] == 200
        assert ask(server, INFER, f"X-API-Key: {BOB}")[0] == 200
        status, code, _ = ask(server, "/v2/models/hidden/infer", f"X-API-Key: {BOB}")
        assert (status, code) == (403, "forbidden")


def test_health_needs_no_key_and_metadata_does(keys: Path) -> None:
    """Probes work without a key; what is deployed is told to key holders only."""
    with RunningServer(keys=keys) as server:
        for path, expected in (("/v2/health/live", 200), ("/v2", 401), ("/v2/models/two", 401)):
            request = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
            assert split_reply(exchange_bytes(server.port, request))[0] == expected


@pytest.mark.parametrize("path", ["", "/ready", "/config", "/stats"])
def test_nobody_learns_of_endpoints_that_a_key_may_not_ask(keys: Path, path: str) -> None:
    """Whether there is one of a name is not told: both are forbidden."""
    with RunningServer(keys=keys) as server:
        for name in ("hidden", "identity-fp32", "not-there"):
            request = f"GET /v2/models/{name}{path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {BOB}\r\n"
            request += "Connection: close\r\n\r\n"
            status, _, body = split_reply(exchange_bytes(server.port, request.encode()))
            assert (status, orjson.loads(body)["code"]) == (403, "forbidden")


def test_a_callers_quota_is_its_own(keys: Path) -> None:
    """A caller over its quota gets 429 with Retry-After; others and its next call are served."""
    import socket  # noqa: PLC0415 - only here

    with RunningServer(keys=keys) as server:
        server.computer.hold = True
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(post(INFER, GOOD, f"X-API-Key: {BOB}"))
            time.sleep(0.2)
            server.computer.hold = False
            status, code, headers = ask(server, INFER, f"X-API-Key: {BOB}")
            assert (status, code, headers["retry-after"]) == (429, "quota_exceeded", "1")
            assert ask(server, INFER, f"X-API-Key: {ALICE}")[0] == 200
            server.release()
            assert split_reply(client.recv(65536))[0] == 200
        assert ask(server, INFER, f"X-API-Key: {BOB}")[0] == 200


def test_a_changed_file_is_taken_over_and_a_broken_one_is_not(keys: Path) -> None:
    """New keys count after a reload; a file with a fault leaves the old keys in force."""
    table = Keys(keys)
    table.provision()
    assert table.reload() is None
    keys.write_text("keys: [{sha256: short, principal: eve}]")
    os.utime(keys, ns=(1, 1))
    error = table.reload()
    assert isinstance(error, InvalidSettings)
    assert table.identify({b"x-api-key": ALICE.encode()}).name == "alice"
    keys.write_text(yaml.safe_dump({"keys": [entry("new", principal="carol")]}))
    os.utime(keys, ns=(2, 2))
    assert table.reload() is None
    assert table.identify({b"x-api-key": b"new"}).name == "carol"
    with pytest.raises(Unauthenticated):
        table.identify({b"x-api-key": ALICE.encode()})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "keys: 5",
        "keys: [{principal: a}]",
        "keys: [{sha256: x, extra: 1}]",
        "{",
        "keys: [{principal: a, subject: ''}]",
        "keys: [{principal: a, sha256: x}]",
        f"keys: [{{principal: a, sha256: {'0' * 64}, subject: b}}]",
    ],
)
def test_a_bad_file_is_refused_at_start(tmp_path: Path, text: str) -> None:
    """The error names the file; an entry has a digest or a subject, never both."""
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSettings, match=r"keys\.yaml"):
        Keys(path).provision()


def test_a_changed_file_does_not_renew_a_used_quota(keys: Path) -> None:
    """Requests that are open when the file is read again still count against their key."""
    found = Keys(keys)
    found.provision()
    principal = found.identify({b"x-api-key": BOB.encode()})
    principal.in_flight = 1
    keys.write_text(keys.read_text().replace("max_in_flight: 1", "max_in_flight: 2"))
    os.utime(keys, ns=(1, 1))
    assert found.reload() is None
    again = found.identify({b"x-api-key": BOB.encode()})
    assert (again.in_flight, again.max_in_flight) == (1, 2)


def test_a_broken_file_changes_nothing(keys: Path) -> None:
    """An entry that is broken behind good ones leaves those as they were, too."""
    found = Keys(keys)
    found.provision()
    text = keys.read_text().replace("max_in_flight: 1", "max_in_flight: 2")
    keys.write_text(f"{text}- {{subject: eve, principal: 'not a name'}}\n")
    os.utime(keys, ns=(1, 1))
    assert found.reload() is not None
    assert found.identify({b"x-api-key": BOB.encode()}).max_in_flight == 1


def test_an_admin_is_one_by_the_file_as_it_is_now(keys: Path) -> None:
    """Nobody is an admin unless the entry says so; a changed file makes one and takes it back."""
    found = Keys(keys)
    found.provision()
    principal = found.identify({b"x-api-key": BOB.encode()})
    assert not principal.is_admin
    plain = keys.read_text()
    admin = plain.replace("principal: bob", "principal: bob\n  admin: true")
    for number, (text, expected) in enumerate(((admin, True), (plain, False)), start=1):
        keys.write_text(text)
        os.utime(keys, ns=(number, number))
        assert found.reload() is None
        assert found.identify({b"x-api-key": BOB.encode()}).is_admin is expected
        assert principal.is_admin is expected
    assert not found.identify({b"x-api-key": ALICE.encode()}).is_admin


@pytest.mark.parametrize(
    "content",
    [b"keys:\n- {principal: caf\xe9, sha256: x}\n", b"keys: " + b"[" * 5000, b"keys: 2001-13-45"],
    ids=["no text", "deep", "no date"],
)
def test_what_no_reader_understands_changes_nothing(keys: Path, content: bytes) -> None:
    """Bytes that are no text, endless nesting and impossible dates are told, and only that."""
    found = Keys(keys)
    found.provision()
    keys.write_bytes(content)
    os.utime(keys, ns=(1, 1))
    error = found.reload()
    assert isinstance(error, InvalidSettings)
    assert "keys.yaml" in error.message
    assert found.identify({b"x-api-key": BOB.encode()}).name == "bob"
