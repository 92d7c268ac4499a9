"""Who calls over TLS: certificates as principals, and that nobody is taken for another."""

import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import numpy as np
import orjson
import pytest
import yaml
from cryptography import x509

from salver.core.settings import HttpSettings
from salver.core.tls import ServerTls
from salver.gateway.http.heads import MAX_PEERS
from tests.certificates import Authority, Issued
from tests.gateway.grpc.calls import infer, infer_request
from tests.gateway.inprocess import RunningServer, post, split_reply
from tests.gateway.test_auth import ALICE, entry
from tests.gateway.test_http_bad import GOOD, INFER
from tests.gateway.test_tls import Party, channel, is_cut_off, open_tls

REQUEST = post(INFER, GOOD, close=False)
AGAIN = 3


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give an authority."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Write a file: two may call the endpoint of REQUEST, one another endpoint, one has a key."""
    path = tmp_path / "keys.yaml"
    entries = [
        {"subject": "alice", "principal": "alice"},
        {"subject": "anna", "principal": "anna"},
        {"subject": "bob", "principal": "bob", "endpoints": ["hidden"]},
        entry(ALICE, principal="holder"),
    ]
    path.write_text(yaml.safe_dump({"keys": entries}))
    return path


@pytest.fixture
def party(authority: Authority, keys: Path) -> Iterator[Party]:
    """Give a server where clients show a certificate or a key."""
    with running(authority, keys) as server:
        yield Party(server, authority, authority.issue("server"))


def running(
    authority: Authority, keys: Path | None, settings: HttpSettings | None = None
) -> RunningServer:
    """Return a server that trusts the authority."""
    own = authority.issue("server")
    tls = ServerTls(own.certificate, own.key, authority.file, clients_must=keys is None)
    return RunningServer(settings, keys=keys, tls=tls)


def certificate(authority: Authority, name: str) -> Issued | None:
    """Return a client's certificate, None for the client without one."""
    return authority.issue(name) if name else None


def one_answer(client: ssl.SSLSocket) -> tuple[int, str]:
    """Read one answer; returns status and code."""
    status, _, body = split_reply(client.recv(65536))
    return status, orjson.loads(body).get("code", "")


def answers(party: Party, name: str, data: bytes = REQUEST) -> set[tuple[int, str]]:
    """Send the same bytes some times on one connection; returns the different outcomes."""
    seen = set()
    context = party.authority.client(certificate(party.authority, name))
    with open_tls(party.server, context) as client:
        for _ in range(AGAIN):
            client.sendall(data)
            seen.add(one_answer(client))
    return seen


EXPECTED = {
    "alice": (200, ""),
    "bob": (403, "forbidden"),
    "eve": (401, "unauthenticated"),
    "": (401, "unauthenticated"),
}


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("first", list(EXPECTED))
def test_equal_bytes_of_different_callers(
    authority: Authority, keys: Path, first: str, remembers: bool
) -> None:
    """Whoever sent a head before, each is answered as itself, also on connections made later."""
    with running(authority, keys, HttpSettings(remember_heads=remembers)) as server:
        party = Party(server, authority, authority.issue("server"))
        for name in (first, *EXPECTED, first):
            assert answers(party, name) == {EXPECTED[name]}


def test_equal_bytes_at_the_same_time(party: Party) -> None:
    """Requests of one loop turn with equal bytes count for, and are answered to, their senders."""
    names = [name for name in ("alice", "anna", "bob", "eve", "") for _ in range(AGAIN)]
    contexts = {
        name: party.authority.client(certificate(party.authority, name)) for name in set(names)
    }
    clients = [open_tls(party.server, contexts[name]) for name in names]
    try:
        for client in clients:
            client.sendall(REQUEST)
            client.recv(65536)
        for _ in range(AGAIN):
            before = len(party.server.computer.contexts)
            free = party.server.busy()
            for client in clients:
                client.sendall(REQUEST)
            free.set()
            for name, client in zip(names, clients, strict=True):
                assert one_answer(client) == {**EXPECTED, "anna": (200, "")}[name]
            asked = party.server.computer.contexts[before:]
            assert Counter(context.principal.name for context in asked) == {
                "alice": AGAIN,
                "anna": AGAIN,
            }
    finally:
        for client in clients:
            client.close()


def test_streams_of_different_callers(party: Party) -> None:
    """Equal requests on streams of HTTP/2 are answered as their connection's caller."""
    url = f"https://localhost:{party.server.port}{INFER}"
    for name in (*EXPECTED, *reversed(EXPECTED)):
        context = party.authority.client(certificate(party.authority, name))
        with httpx.Client(verify=context, http1=False, http2=True) as client:
            for _ in range(AGAIN):
                response = client.post(url, content=GOOD)
                assert (response.status_code, response.json().get("code", "")) == EXPECTED[name]


def test_calls_of_different_callers(party: Party) -> None:
    """Equal gRPC calls are answered as their connection's caller."""
    arrays = {"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)}
    statuses = {
        "alice": None,
        "bob": grpc.StatusCode.PERMISSION_DENIED,
        "eve": grpc.StatusCode.UNAUTHENTICATED,
        "": grpc.StatusCode.UNAUTHENTICATED,
    }
    for name in (*statuses, *reversed(statuses)):
        with channel(party, certificate(party.authority, name)) as opened:
            seen = set()
            for _ in range(AGAIN):
                try:
                    infer(opened, infer_request("two", arrays))
                except grpc.RpcError as error:
                    seen.add(error.code())
                else:
                    seen.add(None)
        assert seen == {statuses[name]}


def test_a_key_decides_over_the_certificate(party: Party) -> None:
    """A key that is sent says who calls, whatever certificate is there; a wrong one is refused."""
    with_key = post(INFER, GOOD, f"X-API-Key: {ALICE}", close=False)
    wrong_key = post(INFER, GOOD, "X-API-Key: guess", close=False)
    for name in ("alice", "bob", "eve", ""):
        before = len(party.server.computer.contexts)
        assert answers(party, name, with_key) == {(200, "")}
        asked = party.server.computer.contexts[before:]
        assert {context.principal.name for context in asked} == {"holder"}
        assert answers(party, name, wrong_key) == {(401, "unauthenticated")}


def test_probes_need_no_entry(party: Party) -> None:
    """Health is open to every client whose handshake succeeds."""
    probe = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    for name in ("eve", ""):
        assert answers(party, name, probe) == {(200, "")}


def test_an_untrusted_certificate_is_worse_than_none(party: Party, tmp_path: Path) -> None:
    """Where certificates may be left out, a bad one is refused still, and its name not believed."""
    stranger = Authority(tmp_path, "stranger").issue("alice")
    assert is_cut_off(party.server, party.authority.client(stranger))
    assert is_cut_off(party.server, party.authority.client(party.authority.issue("alice", days=-1)))


def test_a_changed_key_file_counts_on_open_connections(party: Party, keys: Path) -> None:
    """A caller whose entry was taken away is refused on the connection that it has already."""
    context = party.authority.client(party.authority.issue("alice"))
    with open_tls(party.server, context) as client:
        for _ in range(AGAIN):
            client.sendall(REQUEST)
            assert one_answer(client) == (200, "")
        keys.write_text(yaml.safe_dump({"keys": [{"subject": "anna", "principal": "anna"}]}))
        party.server.run(party.server.keys.provision)
        for _ in range(AGAIN):
            client.sendall(REQUEST)
            assert one_answer(client) == (401, "unauthenticated")


NAMES = (
    x509.DNSName("first.example"),
    x509.UniformResourceIdentifier("spiffe://example/caller"),
    x509.DNSName("second.example"),
)


@pytest.mark.parametrize(
    ("common", "alternatives", "expected"),
    [
        ("carol", NAMES, "carol"),
        ("", NAMES, "spiffe://example/caller"),
        ("", NAMES[::2], "first.example"),
        ("", (), "anonymous"),
    ],
)
def test_the_name_of_a_caller_without_a_key_file(
    authority: Authority,
    common: str,
    alternatives: tuple[x509.GeneralName, ...],
    expected: str,
) -> None:
    """It is the common name, else the first URI, else the first DNS name; it may call anything."""
    issued = authority.issue(common, alternatives=alternatives, file=f"name-{expected[:5]}")
    with running(authority, None) as server:
        with open_tls(server, authority.client(issued)) as client:
            client.sendall(REQUEST)
            assert one_answer(client) == (200, "")
        assert [context.principal.name for context in server.computer.contexts] == [expected]
        assert [context.tenant for context in server.computer.contexts] == ["default"]


def test_many_peers_are_served(authority: Authority) -> None:
    """Peers beyond those whose heads are remembered get the same answers."""
    names = [f"peer-{number}" for number in range(MAX_PEERS + 2)]
    with running(authority, None) as server, ExitStack() as kept:
        clients = [
            kept.enter_context(open_tls(server, authority.client(authority.issue(name))))
            for name in names
        ]
        for client in clients * AGAIN:
            client.sendall(REQUEST)
            assert one_answer(client) == (200, "")
        assert [context.principal.name for context in server.computer.contexts] == names * AGAIN
